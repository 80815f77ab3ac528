"""What may be loaded when: help and version are instant, importing has no side effects."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = [
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "sklearn",
    "skl2onnx",
    "PIL",
    "starlette",
    "uvicorn",
    "numpy",
    "msgspec",
    "prometheus_client",
    "torch_pruning",
    "openvino",
]

_PROBE = """
import json, sys
sys.argv = ["mlserve", *json.loads(sys.argv[1])]
from mlserve_cli.cli.main import run
try:
    run()
except SystemExit as end:
    print(json.dumps([end.code or 0, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["export", "--help"], ["up", "--help"]]
)
def test_help_and_version_load_no_heavy_module(arguments):
    result = subprocess.run(
        [sys.executable, "-c", _PROBE, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    status, loaded = json.loads(result.stdout.splitlines()[-1])

    assert status == 0
    # The flags of `up` are made from the settings, whose types need these.
    allowed = {"numpy", "msgspec"} if arguments[0] == "up" else set()
    assert not set(HEAVY) & set(loaded) - allowed


def test_importing_any_module_prints_nothing_and_reads_no_arguments():
    program = """
import importlib, pkgutil, sys
sys.argv = ["something", "--nonsense"]
import mlserve_cli
for found in pkgutil.walk_packages(mlserve_cli.__path__, "mlserve_cli."):
    importlib.import_module(found.name)
import logging
assert not logging.getLogger().handlers, "logging was set up by an import"
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert result.stderr == ""


@pytest.mark.parametrize("module", ["cli.main", "runtime.engines.onnxruntime"])
def test_onnx_runtime_leaves_no_report_of_its_use_behind(module, iris_onnx, tmp_path):
    """Its telemetry keeps a queue under XDG_CACHE_HOME and a session file in TMPDIR."""
    program = f"""
import sys
import mlserve_cli.{module}
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1])
"""
    (tmp_path / "cache").mkdir()
    (tmp_path / "tmp").mkdir()
    places = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    environment = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}

    subprocess.run(
        [sys.executable, "-c", program, str(iris_onnx)],
        timeout=120,
        check=True,
        env=environment | places,
    )

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
