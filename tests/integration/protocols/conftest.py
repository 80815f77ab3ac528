"""A real server in a process of its own, with small packages of every kind, on a free port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Column,
    ImageInput,
    Processing,
    TableInput,
    TextInput,
    ValuesOutput,
)
from mlserve_cli.runtime.tensors import DATATYPES, Tensors

RUN = """
import sys
from pathlib import Path
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.serving import serve
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

sized = {"words": Sizing(), "every": Sizing(inline=True)}
settings = Settings(
    port=0,
    grpc_port=0,
    models=sys.argv[1],
    max_body_mb=2,
    shutdown_grace_s=0,
    sizing=sized,
    max_queue_rows=4096,
    state="",  # what a test unloads is there again for the next run
)
server = Server(settings, Path("/"))
serve(build_app(server), server, announce=lambda url: print(url, server.rpc.ports[0], flush=True))
"""


def text(*values: bytes) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return array


def values_of(datatype: str) -> np.ndarray[Any, Any]:
    """Two rows at the ends of a datatype's range."""
    dtype = DATATYPES[datatype]
    if datatype == "BYTES":
        return text("häß".encode(), b"")
    if dtype.kind == "b":
        return np.array([True, False])
    if dtype.kind == "f":
        return np.array([0.1, np.finfo(dtype).max], dtype=dtype)
    return np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype=dtype)


def package(folder: Path, name: str, nodes: Any, sample: Tensors, **fields: Any) -> None:
    """Make a package of an ONNX graph; `nodes` are (operator, inputs, outputs, attributes)."""
    from onnx import helper, save

    sizes: dict[str, Any] = fields.pop("outputs_of")
    made = [
        helper.make_node(kind, inputs, outputs, **more) for kind, inputs, outputs, more in nodes
    ]
    inputs = [
        helper.make_tensor_value_info(key, element(array.dtype), ["batch", *array.shape[1:]])
        for key, array in sample.items()
    ]
    outputs = [
        helper.make_tensor_value_info(key, element(dtype), ["batch", *shape])
        for key, (dtype, shape) in sizes.items()
    ]
    graph = helper.make_graph(made, name, inputs, outputs, fields.pop("initializers", []))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    version = fields.setdefault("version", "1")
    with create(folder / name / version) as draft:
        save(model, draft.serve / "model.onnx")
        manifest = Manifest(name=name, variant="fp32", inputs=(), outputs=(), **fields)
        finish(draft, manifest, [sample])


def element(dtype: Any) -> int:
    from onnx import TensorProto, helper

    if dtype == np.object_:
        return int(TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def doubling(folder: Path, version: str) -> None:
    rows = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)
    package(
        folder,
        "dbl",
        [("Add", ["x", "x"], ["y"], {})],
        {"x": rows},
        outputs_of={"y": (np.float32, [3])},
        version=version,
    )


def fill(folder: Path) -> None:
    """The repository that the server of these tests serves."""
    from onnx import numpy_helper

    doubling(folder, "1")
    doubling(folder, "2")
    package(
        folder,
        "words",
        [("Identity", ["x"], ["y"], {})],
        {"x": text(b"hello", b"", b"you")},
        outputs_of={"y": (np.object_, [])},
        processing=Processing(input=TextInput(tensor="x")),
    )
    every = {name.lower(): values_of(name) for name in DATATYPES}
    for name in ("fp16", "fp32", "fp64"):  # the squares of the largest numbers are no statistics
        every[name] = np.array([0.1, -2.5], dtype=every[name].dtype)
    package(
        folder,
        "every",
        [("Identity", [name], [f"{name}_out"], {}) for name in every],
        every,
        outputs_of={f"{name}_out": (array.dtype, []) for name, array in every.items()},
    )
    pictures = np.random.default_rng(4).integers(0, 256, (4, 1, 8, 8)) / np.float32(255)
    package(
        folder,
        "light",
        [
            ("Flatten", ["image"], ["flat"], {}),
            ("Gemm", ["flat", "weights"], ["scores"], {}),
        ],
        {"image": (pictures - 0.5).astype(np.float32)},
        outputs_of={"scores": (np.float32, [2])},
        initializers=[
            numpy_helper.from_array(
                np.stack([-np.ones(64), np.ones(64)], 1).astype(np.float32), "weights"
            )
        ],
        labels=("dark", "light"),
        processing=Processing(
            input=ImageInput(tensor="image", width=8, height=8, channels=1, mean=(0.5,)),
            output=ClassesOutput(tensor="scores", softmax=True),
        ),
    )
    package(
        folder,
        "price",
        [("ReduceSum", ["x", "axes"], ["y"], {"keepdims": 1})],
        {"x": np.array([[1.5, 2], [30, 4]], dtype=np.float32)},
        outputs_of={"y": (np.float32, [1])},
        initializers=[numpy_helper.from_array(np.array([1]), "axes")],
        processing=Processing(
            input=TableInput(tensor="x", columns=(Column("area"), Column("rooms", "integer"))),
            output=ValuesOutput(tensor="y"),
        ),
    )


@pytest.fixture
def every() -> Tensors:
    """The inputs of the model that passes every datatype on."""
    return {name.lower(): values_of(name) for name in DATATYPES}


@dataclass(frozen=True)
class Served:
    """A running server: where it answers, what it serves, its process."""

    url: str
    folder: Path
    process: subprocess.Popen[str]
    grpc: str  # `host:port`

    @property
    def address(self) -> str:
        """`host:port`."""
        return self.url.removeprefix("http://")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests of this folder; none of them changes it."""
    folder = tmp_path_factory.mktemp("models")
    fill(folder)
    log = folder.parent / f"{folder.name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
    assert process.stdout is not None
    try:
        url, _, port = process.stdout.readline().strip().partition(" ")
        assert url, log.read_text()
        yield Served(url, folder, process, f"127.0.0.1:{port}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
