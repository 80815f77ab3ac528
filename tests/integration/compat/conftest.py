"""A real server process with the models of the other servers' own tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    ImageInput,
    Processing,
)

RUN = """
import sys
from pathlib import Path
from mlserve_cli.runtime import compat
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.serving import serve
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

sized = {name: Sizing(threads=1) for name in ("half", "light")}
settings = Settings(port=0, models=sys.argv[1], shutdown_grace_s=0, sizing=sized, state="")
server = Server(settings, Path("/"))
serve(build_app(server), server, announce=lambda url: print(url, flush=True))
"""


def half(folder: Path, version: str) -> None:
    """TensorFlow Serving's own test model: y = x / 2 + 2, for x and y of shape (batch,)."""
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "a"], ["scaled"]),
            helper.make_node("Add", ["scaled", "b"], ["y"]),
        ],
        "half_plus_two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [
            numpy_helper.from_array(np.float32(0.5), "a"),
            numpy_helper.from_array(np.float32(2), "b"),
        ],
    )
    rows = {"x": np.linspace(-3, 3, 8, dtype=np.float32)}
    package(folder / "half" / version, "half", version, graph, rows, save=save)


def light(folder: Path) -> None:
    """Dark or light pictures of 8 × 8."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = np.stack([-np.ones(64), np.ones(64)], 1).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        ],
        "light",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "weights")],
    )
    levels = np.random.default_rng(4).integers(0, 256, (4, 1, 8, 8)) / np.float32(255)
    package(
        folder / "light" / "1",
        "light",
        "1",
        graph,
        {"image": (levels - 0.5).astype(np.float32)},
        save=save,
        labels=("dark", "light"),
        processing=Processing(
            input=ImageInput(tensor="image", width=8, height=8, channels=1, mean=(0.5,)),
            output=ClassesOutput(tensor="scores", softmax=True),
        ),
    )


def package(
    path: Path, name: str, version: str, graph: Any, rows: Any, *, save: Any, **fields: Any
) -> None:
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    with create(path) as draft:
        save(model, draft.serve / "model.onnx")
        manifest = Manifest(
            name=name, version=version, variant="fp32", inputs=(), outputs=(), **fields
        )
        finish(draft, manifest, [rows])


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    half(folder, "122")
    half(folder, "123")
    light(folder)
    return folder


@pytest.fixture(scope="module")
def url(repository: Path) -> Iterator[str]:
    """A server for the tests of one file."""
    log = repository.parent / f"{repository.name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(repository)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
    assert process.stdout is not None
    try:
        found = process.stdout.readline().strip()
        assert found, log.read_text()
        yield found
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
