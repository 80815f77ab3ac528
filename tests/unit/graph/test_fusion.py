"""Attention fused: the same answers at other sizes, kept only where it is as good."""

import numpy as np
import pytest

from mlserve_cli.graph import attention, clean, from_torch, fusion
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import EngineOptions


def rows(length, count=8):
    return {"x": np.random.default_rng(length).standard_normal((count, length, 16), np.float32)}


@pytest.fixture
def traced(tmp_path):
    """A file with one attention of two heads in it."""
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
    return tmp_path / "model.onnx"


def test_a_fused_graph_answers_the_same_at_other_sizes(traced, monkeypatch):
    path = traced
    monkeypatch.setattr(fusion, "SLOWER", float("inf"))  # tiny graphs are no measure
    plain = engines.load("onnxruntime", path, EngineOptions())
    before = {length: plain.run(rows(length)) for length in (1, 3, 11)}

    count = fusion.apply(path, [rows(6), rows(9)])

    assert count == 1
    fused = engines.load("onnxruntime", path, EngineOptions())
    assert fused.inputs == plain.inputs
    for length, expected in before.items():
        np.testing.assert_allclose(
            fused.run(rows(length))["output"], expected["output"], rtol=1e-4, atol=1e-5
        )
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_what_was_fused_can_be_taken_apart_again(traced):
    import onnx

    model = onnx.load(traced)
    plain = [node.op_type for node in model.graph.node]
    expected = run(model, rows(5))

    assert attention.fuse(model) == 1
    assert attention.unfuse(model) == 1

    assert "Attention" not in {node.op_type for node in model.graph.node}
    assert plain.count("Softmax") == [node.op_type for node in model.graph.node].count("Softmax")
    np.testing.assert_allclose(run(model, rows(5)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("axes", "axis", "opset", "found"),
    [(4, -1, 17, 1), (4, 3, 17, 1), (4, None, 17, 1), (4, 2, 17, 0), (4, -2, 17, 0),
     (4, 1, 17, 0), (4, -1, 11, 1), (4, 3, 11, 1), (4, None, 11, 0),
     (3, -1, 17, 1), (3, 2, 17, 1), (3, 1, 17, 0), (3, 3, 17, 0)],
)  # fmt: skip
def test_shares_of_another_axis_than_the_keys_are_no_attention(axes, axis, opset, found):
    """Scores of four axes, or of three, where an exporter put the heads beside the rows."""
    from onnx import TensorProto, helper, numpy_helper

    apart, whole = ([0, 0, 2, 8], [0, 0, 16]) if axes == 4 else ([-1, 6, 8], [-1, 6, 16])
    across, down = ([0, 2, 1, 3], [0, 2, 3, 1]) if axes == 4 else ([0, 1, 2], [0, 2, 1])
    constants = [numpy_helper.from_array(np.ones((16, 16), np.float32), each) for each in "qkv"]
    constants += [
        numpy_helper.from_array(np.array(shape), name)
        for name, shape in {"apart": apart, "whole": whole}.items()
    ]
    nodes = []
    for each, order in (("q", across), ("k", down), ("v", across)):
        nodes += [
            helper.make_node("MatMul", ["x", each], [f"{each}_product"]),
            helper.make_node("Reshape", [f"{each}_product", "apart"], [f"{each}_parted"]),
            helper.make_node("Transpose", [f"{each}_parted"], [f"{each}_heads"], perm=order),
        ]
    nodes += [
        helper.make_node("MatMul", ["q_heads", "k_heads"], ["scores"]),
        helper.make_node(
            "Softmax", ["scores"], ["shares"], **({} if axis is None else {"axis": axis})
        ),
        helper.make_node("MatMul", ["shares", "v_heads"], ["weighed"]),
        helper.make_node("Transpose", ["weighed"], ["turned"], perm=across),
        helper.make_node("Reshape", ["turned", "whole"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 6, 16]) for name in "xy"
    ]
    graph = helper.make_graph(nodes, "attending", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])

    assert len(attention.Finder(model, attention.columns(model)).all()) == found


@pytest.mark.parametrize("written", ["eager", "sdpa"])
def test_attention_with_a_mask_is_found_however_the_exporter_wrote_it(written):
    import onnx

    transformers = pytest.importorskip("transformers")
    import torch

    from mlserve_cli.export.hugging_face_modules import text

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        attn_implementation=written,
    )
    network = text(transformers.BertModel(config, add_pooling_layer=False), shares=False)
    ids = np.random.default_rng(0).integers(1, 40, (4, 7))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    given["attention_mask"][1:, 4:] = 0
    model = from_torch.trace(network, given, dynamic={name: {1: "length"} for name in given})
    plain = onnx.ModelProto()
    plain.CopyFrom(model)

    assert attention.fuse(model) == 2

    np.testing.assert_allclose(run(model, given), run(plain, given), rtol=1e-4, atol=1e-5)


def run(model, given):
    """Its first output."""
    import onnxruntime as ort

    return ort.InferenceSession(model.SerializeToString()).run(None, given)[0]


def test_a_slower_graph_is_not_kept(traced, monkeypatch):
    path = traced
    before = path.read_bytes()
    monkeypatch.setattr(fusion, "ratio", lambda *_: 1.5)

    assert fusion.apply(path, [rows(6)]) == 0
    assert path.read_bytes() == before


def test_a_graph_that_answers_otherwise_is_not_kept(traced, monkeypatch):
    path = traced
    before = path.read_bytes()
    honest = attention.fuse

    def wrong(model):
        count = honest(model)
        for node in model.graph.node:
            for item in node.attribute:
                item.f *= 2  # the scale
        return count

    monkeypatch.setattr(attention, "fuse", wrong)
    assert fusion.apply(path, [rows(6)]) == 0
    assert path.read_bytes() == before


def test_a_graph_without_attention_is_left_alone(iris_onnx):
    before = iris_onnx.read_bytes()

    assert fusion.apply(iris_onnx, [{"x": np.ones((8, 4), np.float32)}]) == 0
    assert iris_onnx.read_bytes() == before
