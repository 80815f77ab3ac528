"""The runtime ships alone: under another name, with the toolchain out of reach."""

import shutil
import subprocess
import sys
from pathlib import Path

RUNTIME = Path(__file__).parents[2] / "mlserve_cli" / "runtime"

_PROGRAM = """
import importlib, pkgutil, sys

class Blocked:
    names = {"mlserve_cli", "typer", "rich", "torch", "onnx", "onnxscript", "sklearn", "skl2onnx"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is out of reach", name=name)

sys.meta_path.insert(0, Blocked())
sys.path[:0] = [sys.argv[1]]
import shipped

modules = [found.name for found in pkgutil.walk_packages(shipped.__path__, "shipped.")]
for name in modules:
    importlib.import_module(name)
from shipped.engines import ENGINES
for target in ENGINES.values():
    module, _, attribute = target.partition(":")
    getattr(importlib.import_module(module, "shipped.engines"), attribute)
assert len(modules) > 20
print("alone")
"""


def test_every_module_of_the_runtime_imports_under_another_name_without_the_toolchain(tmp_path):
    shutil.copytree(RUNTIME, tmp_path / "shipped", ignore=shutil.ignore_patterns("__pycache__"))

    result = subprocess.run(
        [sys.executable, "-P", "-c", _PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )

    assert result.stdout == "alone\n", result.stderr


def test_the_runtime_never_spells_its_own_place():
    """An absolute import would work here and fail in a server folder."""
    spelled = [path.name for path in RUNTIME.rglob("*.py") if "mlserve_cli" in path.read_text()]

    assert spelled == []
