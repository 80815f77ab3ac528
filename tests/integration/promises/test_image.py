"""Promise 23: what goes into the image is the runtime and what it imports, and nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlserve_cli.emit.folder import emit
from mlserve_cli.package.progress import Silent

LIMIT_MB = 250  # ONNX Runtime and NumPy are most of it; the peers' images take gigabytes
TOOLING = {"torch", "onnx", "onnxscript", "mlserve-cli", "typer", "rich", "scikit-learn", "scipy"}


@pytest.fixture
def folder(iris_package: Callable[..., Any], tmp_path: Path) -> Path:
    path: Path = emit([iris_package().path], tmp_path / "server", progress=Silent()).path
    return path


def required(folder: Path) -> list[str]:
    """The names in requirements.txt, which pip takes with all that they need."""
    lines = (folder / "requirements.txt").read_text().splitlines()
    return [re.split(r"==", line)[0] for line in lines if line and not line.startswith("#")]


def files_of(names: list[str]) -> dict[Path, Path]:
    """Where each file of those libraries goes in site-packages → where it is here."""
    found = {}
    for name in names:
        for file in importlib.metadata.files(name) or ():
            place = Path(str(file.locate()))
            if ".." not in file.parts and "__pycache__" not in file.parts and place.is_file():
                found[Path(*file.parts)] = place
    return found


def test_promise_23_the_image_holds_only_the_runtime_and_is_small(folder: Path) -> None:
    names = required(folder)
    assert not TOOLING & set(names)
    assert "onnxruntime" in names
    size = sum(place.stat().st_size for place in files_of(names).values())
    size += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < LIMIT_MB << 20, f"{size >> 20} MiB"
    lines = (folder / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == [
        f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    ]
    installed = [line for line in lines if "pip" in line and line.startswith("RUN")]
    assert installed == [
        'RUN ["python", "-m", "pip", "install", "--requirement", "requirements.txt"]'
    ]


def test_promise_23_nothing_but_those_libraries_is_needed_to_answer(
    folder: Path, tmp_path: Path
) -> None:
    """Run on a site-packages that holds the files of requirements.txt alone."""
    site = tmp_path / "site"
    for target, place in files_of(required(folder)).items():
        (site / target).parent.mkdir(parents=True, exist_ok=True)
        (site / target).symlink_to(place)
    # -S leaves this environment's own libraries out; its standard library stays.
    with subprocess.Popen(
        [sys.executable, "-S", "-P", folder / "server.py"],
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{folder}:{site}", "PATH": os.defpath, "MLSERVE_PORT": "0"},
    ) as process:
        assert process.stderr is not None
        try:
            said = ""
            for line in process.stderr:
                said += line
                if found := re.search(r"serving at (\S+)", line):
                    break
            else:
                raise AssertionError(said)
            with urllib.request.urlopen(f"{found[1]}/readyz", timeout=30) as reply:
                assert reply.status == 200
            request = urllib.request.Request(
                f"{found[1]}/v2/models/iris/infer",
                data=b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[5,3,1,0]}]}',
            )
            with urllib.request.urlopen(request, timeout=30) as reply:
                assert b'"scores"' in reply.read()
        finally:
            process.kill()
