# ruff: noqa: TID253
"""An encoder's block in int8: which kernels run it, and that its answers are the same."""

import numpy as np
import pytest
from onnx import load, save

from mlserve_cli.graph import kernels
from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import Choices, fusions
from mlserve_cli.quantize.calibration.rows import gather
from mlserve_cli.quantize.prepare import prepare
from mlserve_cli.quantize.static import quantize
from mlserve_cli.runtime.tensors import TensorSpec

ROWS = np.random.default_rng(5).normal(size=(32, 6, 8)).astype(np.float32)


@pytest.fixture
def block(make_onnx, tmp_path):
    """x + down(gelu(up(x))), normalized."""

    def make():
        rng = np.random.default_rng(6)
        weights = {
            "w1": rng.normal(size=(8, 16)).astype(np.float32),
            "b1": rng.normal(size=16).astype(np.float32),
            "w2": rng.normal(size=(16, 8)).astype(np.float32),
            "b2": rng.normal(size=8).astype(np.float32),
            "g": np.ones(8, np.float32),
            "zero": np.zeros(8, np.float32),
        }
        nodes = [
            ("MatMul", ["x", "w1"], ["up"], "up", {}),
            ("Add", ["b1", "up"], ["up_biased"], "add1", {}),
            ("Gelu", ["up_biased"], ["act"], "gelu", {}),
            ("MatMul", ["act", "w2"], ["down"], "down", {}),
            ("Add", ["down", "b2"], ["down_biased"], "add2", {}),
            ("Add", ["x", "down_biased"], ["sum"], "residual", {}),
            ("LayerNormalization", ["sum", "g", "zero"], ["y"], "norm", {}),
        ]
        return make_onnx(nodes, weights, shape=[6, 8], out=[6, 8], opset=20)

    return make


@pytest.fixture
def int8(tmp_path):
    """Quantize a file with the rows; return the path of what came out."""

    def make(path, name="int8"):
        folder = tmp_path / name
        folder.mkdir()
        model = load(prepare(path, folder))
        spec = (TensorSpec("x", "FP32", ("batch", "tokens", 8)),)
        rows = gather([{"x": ROWS}], folder / "rows", inputs=spec, progress=Silent())
        save(quantize(model, rows, Choices()).model, folder / "int8.onnx")
        return folder / "int8.onnx"

    return make


def answer(path, x):
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_a_residual_sum_is_not_fused_with_the_normalization(block, int8, monkeypatch):
    source = block()
    found = kernels.read(int8(source))
    assert (found.int8, found.floating) == (2, 0)
    assert {"Sum", "LayerNormalization"} <= set(found.nodes)
    assert "SkipLayerNormalization" not in found.nodes
    monkeypatch.setattr(fusions, "part_residuals", lambda model: None)
    assert "SkipLayerNormalization" in kernels.read(int8(source, "plain")).nodes


def test_the_answers_are_those_of_the_plain_form(block, int8, monkeypatch):
    source = block()
    made = int8(source)
    monkeypatch.setattr(fusions, "part_residuals", lambda model: None)
    plain = int8(source, "plain")
    assert np.abs(answer(made, ROWS) - answer(plain, ROWS)).max() < 1e-5
    assert np.abs(answer(made, ROWS) - answer(source, ROWS)).max() < 0.2


def test_a_constant_that_is_added_before_a_normalization_stays_an_add(make_onnx):
    weights = {name: np.ones(8, np.float32) for name in ("c", "g", "b")}
    nodes = [
        ("Add", ["x", "c"], ["sum"], "add", {}),
        ("LayerNormalization", ["sum", "g", "b"], ["y"], "norm", {}),
    ]
    model = load(make_onnx(nodes, weights, shape=[6, 8], out=[6, 8]))
    fusions.part_residuals(model)
    assert [node.op_type for node in model.graph.node] == ["Add", "LayerNormalization"]
