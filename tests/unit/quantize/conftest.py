"""Small ONNX graphs made by hand, and packages of them."""

import shutil

import numpy as np
import pytest

from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import Manifest, StepRecord


@pytest.fixture
def make_onnx(tmp_path):
    """Write a graph of nodes over input x (batch, *shape) and output y; weights by name."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    def make(nodes, weights, *, shape, out, name="model", opset=17):
        graph = helper.make_graph(
            [helper.make_node(*node[:3], name=node[3], **node[4]) for node in nodes],
            "made",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *out])],
            [numpy_helper.from_array(value, key) for key, value in weights.items()],
        )
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        checker.check_model(model)
        path = tmp_path / f"{name}.onnx"
        save(model, path)
        return path

    return make


@pytest.fixture
def make_mlp(make_onnx):
    """Two Gemms with a Relu between: (batch, 8) → (batch, 3)."""

    def make(**options):
        rng = np.random.default_rng(3)
        weights = {
            "w1": rng.normal(size=(8, 16)).astype(np.float32),
            "b1": rng.normal(size=16).astype(np.float32),
            "w2": rng.normal(size=(16, 3)).astype(np.float32),
            "b2": rng.normal(size=3).astype(np.float32),
        }
        nodes = [
            ("Gemm", ["x", "w1", "b1"], ["h"], "first", {}),
            ("Relu", ["h"], ["r"], "relu", {}),
            ("Gemm", ["r", "w2", "b2"], ["y"], "last", {}),
        ]
        return make_onnx(nodes, weights, shape=[8], out=[3], **options)

    return make


@pytest.fixture
def pack(tmp_path):
    """Make a package of an ONNX file, with the rows that it is tried with."""

    def make(model, rows, /, **fields) -> Package:
        target = tmp_path / "packages" / fields.get("name", "made")
        values = {
            "name": "made",
            "version": "1",
            "variant": "fp32",
            "inputs": (),
            "outputs": (),
            "lineage": (StepRecord(step="export"),),
        }
        with create(target) as draft:
            shutil.copyfile(model, draft.serve / "model.onnx")
            sealed = finish(draft, Manifest(**(values | fields)), [rows])
        return Package(target, sealed)

    return make
