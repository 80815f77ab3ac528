"""The layers of the code, held by import-linter's contracts in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_import_goes_downwards_and_the_runtime_imports_nothing_of_ours():
    linter = Path(sys.executable).with_name("lint-imports")

    result = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_contracts_notice_an_upward_import(tmp_path):
    """A contract that cannot fail holds nothing: copy the tree, break a rule, see it found."""
    import shutil

    shutil.copytree(ROOT / "mlserve_cli", tmp_path / "mlserve_cli")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    errors = tmp_path / "mlserve_cli" / "runtime" / "errors.py"
    errors.write_text(errors.read_text() + "\nfrom mlserve_cli.package import draft  # noqa\n")
    linter = Path(sys.executable).with_name("lint-imports")

    result = subprocess.run(
        [linter, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )

    assert result.returncode == 1
    assert "mlserve_cli.runtime.errors -> mlserve_cli.package.draft" in result.stdout
