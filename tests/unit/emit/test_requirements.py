import importlib.metadata
import subprocess
import sys

import pytest

from mlserve_cli.emit.requirements import pinned
from mlserve_cli.errors import MissingExtra
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import (
    ImageInput,
    Processing,
    PythonProcessing,
    TextInput,
)


def _model(**fields):
    values = {"name": "m", "version": "1", "variant": "fp32", "inputs": (), "outputs": ()}
    return Manifest(**(values | fields))


def _pins(*models):
    lines = [line.partition("#")[0].strip() for line in pinned(models).splitlines()]
    return [line for line in lines if line]


def test_the_servers_own_libraries_are_pinned_to_what_is_installed():
    pins = dict(line.split("==") for line in _pins(_model()))

    for name in ("numpy", "onnxruntime", "starlette", "uvicorn", "uvloop", "prometheus-client"):
        assert pins[name] == importlib.metadata.version(name)


def test_what_those_need_in_turn_is_pinned_too():
    names = [line.split("==")[0] for line in _pins(_model())]

    assert "anyio" in names, "starlette needs it"
    assert "protobuf" in names, "onnxruntime needs it"
    assert len(names) == len(set(names))


def test_nothing_of_the_toolchain_is_required():
    names = {line.split("==")[0] for line in _pins(_model())}

    assert not names & {"torch", "onnx", "typer", "rich", "mlserve-cli", "pillow", "tokenizers"}


def test_pillow_comes_only_with_a_model_that_takes_pictures():
    picture = _model(processing=Processing(input=ImageInput(tensor="x", width=8, height=8)))

    assert any(line.startswith("pillow==") for line in _pins(_model(), picture))


def test_pytorch_comes_only_with_a_model_that_its_engine_runs():
    pins = _pins(_model(), _model(engine="torch"))

    # Without "+cpu" and the like: no index has a version of that name.
    torch = next(line for line in pins if line.startswith("torch=="))
    assert "+" not in torch.partition("#")[0]


def test_a_library_that_is_not_installed_here_has_no_tested_version(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "tokenizers":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    text = _model(processing=Processing(input=TextInput(tensor="x", tokenizer="tokenizer.json")))

    with pytest.raises(MissingExtra, match="'tokenizers' is needed to serve 'm'") as caught:
        pinned([text])
    assert caught.value.hint == "pip install tokenizers"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("pyparsing_that_is_nowhere>=2", "pyparsing_that_is_nowhere>=2"),
        ("rich<1", "rich<1"),  # not what is installed, so the author's own words stand
        ("rich>=10", f"rich=={importlib.metadata.version('rich')}"),
        ("rich[jupyter]>=10", "rich[jupyter]>=10"),
        ("./wheels/mine.whl", "./wheels/mine.whl"),
    ],
)
def test_what_processing_py_needs_is_pinned_where_this_machine_has_tested_it(given, expected):
    python = PythonProcessing(requirements=(given,))

    assert expected in _pins(_model(processing=Processing(python=python)))


def test_a_requirement_of_processing_py_that_the_server_has_anyway_stands_once():
    python = PythonProcessing(requirements=("numpy>=1", "NumPy"))
    pins = _pins(_model(processing=Processing(python=python)))

    assert [line for line in pins if line.lower().startswith("numpy")] == [
        f"numpy=={importlib.metadata.version('numpy')}"
    ]


def test_pip_reads_every_line(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text(pinned([_model()]))
    # All of it is installed, so this resolves without an index and installs nothing.
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "-r", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert result.returncode == 0, result.stderr
    assert "Would install" not in result.stdout
