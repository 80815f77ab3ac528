"""Attention fused: the same answers at other sizes, kept only where it is as good."""

import numpy as np
import pytest

from mlserve_cli.graph import clean, from_torch, fusion
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import EngineOptions


def rows(length, count=8):
    return {"x": np.random.default_rng(length).standard_normal((count, length, 16), np.float32)}


@pytest.fixture
def traced(tmp_path):
    """A file with one attention of two heads in it, and its graph with shapes."""
    import torch
    from torch import nn

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
            self.end = nn.Linear(16, 16)

        def forward(self, x):
            parts = [
                layer(x).view(x.shape[0], x.shape[1], 2, 8).transpose(1, 2)
                for layer in (self.query, self.key, self.value)
            ]
            together = nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2)
            return self.end(together.reshape(x.shape))

    torch.manual_seed(0)
    model = from_torch.trace(Attending(), rows(6), dynamic={"x": {1: "length"}})
    plain = type(model)()
    plain.CopyFrom(model)
    clean.strip(plain)
    clean.save(plain, tmp_path / "model.onnx")
    return tmp_path / "model.onnx", model


def test_a_fused_graph_answers_the_same_at_other_sizes(traced, monkeypatch):
    path, model = traced
    monkeypatch.setattr(fusion, "SLOWER", float("inf"))  # tiny graphs are no measure
    plain = engines.load("onnxruntime", path, EngineOptions())
    before = {length: plain.run(rows(length)) for length in (1, 3, 11)}

    count = fusion.apply(path, [rows(6), rows(9)], traced=model)

    assert count == 1
    fused = engines.load("onnxruntime", path, EngineOptions())
    assert fused.inputs == plain.inputs
    for length, expected in before.items():
        np.testing.assert_allclose(
            fused.run(rows(length))["output"], expected["output"], rtol=1e-4, atol=1e-5
        )
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_a_file_without_shapes_has_them_inferred_and_nothing_is_left_behind(
    traced, tmp_path, monkeypatch
):
    path, _ = traced
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(fusion, "SLOWER", float("inf"))

    assert fusion.apply(path, [rows(6)]) == 1
    assert list((tmp_path / "here").iterdir()) == []


def test_a_slower_graph_is_not_kept(traced, monkeypatch):
    path, model = traced
    before = path.read_bytes()
    monkeypatch.setattr(fusion, "_ratio", lambda *_: 1.5)

    assert fusion.apply(path, [rows(6)], traced=model) == 0
    assert path.read_bytes() == before


def test_a_graph_that_answers_otherwise_is_not_kept(traced, monkeypatch):
    path, model = traced
    before = path.read_bytes()
    honest = fusion._fused

    def wrong(*given):
        fused = honest(*given)
        for tensor in fused.graph.initializer:
            if len(tensor.raw_data) == 16 * 4:  # a bias
                tensor.raw_data = np.ones(16, np.float32).tobytes()
        return fused

    monkeypatch.setattr(fusion, "_fused", wrong)
    assert fusion.apply(path, [rows(6)], traced=model) == 0
    assert path.read_bytes() == before


def test_a_graph_without_attention_is_left_alone(iris_onnx):
    before = iris_onnx.read_bytes()

    assert fusion.apply(iris_onnx, [{"x": np.ones((8, 4), np.float32)}]) == 0
    assert iris_onnx.read_bytes() == before
