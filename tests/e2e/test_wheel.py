"""The wheel is whole: installed alone, with only the core, it helps, examines and serves."""

import os
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_templates_the_runtime_and_the_type_marker(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())

    assert "mlserve_cli/py.typed" in names
    assert "mlserve_cli/runtime/VERSION" in names
    assert "mlserve_cli/runtime/page.html" in names
    assert "mlserve_cli/_templates/server/server.py" in names
    assert any(name.startswith("mlserve_cli/_templates/definition/") for name in names)
    assert not any(name.startswith(("tests/", "samples/")) for name in names)


@pytest.mark.slow
def test_the_core_alone_helps_examines_and_serves_an_onnx_file(wheel, iris_onnx, tmp_path):
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=120)
    python = environment / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel],
        check=True,
        timeout=600,
        capture_output=True,
    )
    mlserve = environment / "bin" / "mlserve"
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def run(*arguments):
        return subprocess.run(
            [mlserve, *arguments],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout

    assert "export" in run("--help")
    assert "onnxruntime" in run("doctor")
    server = subprocess.Popen(
        [mlserve, "up", iris_onnx, "--port", "0"],
        cwd=tmp_path,
        env=clean,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        seen = ""
        for line in server.stderr:
            seen += line
            if "http://" in line:
                url = "http://" + line.partition("http://")[2].split("/")[0].split()[0]
                break
        else:
            pytest.fail(seen)
        with urllib.request.urlopen(f"{url}/v2/models/iris", timeout=30) as response:
            assert b'"x"' in response.read()
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert server.returncode == 0
