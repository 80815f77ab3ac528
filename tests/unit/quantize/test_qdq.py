"""Laws of the rewriting: what a QDQ graph answers does not depend on who wrote it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve_cli.quantize import qdq
from mlserve_cli.quantize.calibration.range import Range


def build(nodes, weights, *, shape, out, opset=19):
    from onnx import TensorProto, checker, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node(*node[:3], name=node[2][0], **node[3]) for node in nodes],
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    checker.check_model(model)
    return model


def answer(model, x):
    """As the standard defines it: no kernel of ONNX Runtime has a say."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def types(model):
    from onnx import numpy_helper

    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    return {
        arrays[node.input[2]].dtype.name
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2
    }


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(1e-3, 10),
    zero=st.integers(-128, 127),
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8),
)
def test_signed_activations_written_as_unsigned_answer_the_same_to_the_bit(scale, zero, values):
    model = build(
        [
            ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
            ("DequantizeLinear", ["q", "s", "z"], ["y"], {}),
        ],
        {"s": np.array(scale, np.float32), "z": np.array(zero, np.int8)},
        shape=["n"],
        out=["n"],
    )
    x = np.array(values, np.float32)
    before = answer(model, x)
    qdq.recast(model, np.uint8)
    assert types(model) == {"uint8"}
    assert np.array_equal(answer(model, x), before)
    qdq.recast(model, np.int8)
    assert types(model) == {"int8"}
    assert np.array_equal(answer(model, x), before)


def test_levels_that_something_else_reads_keep_their_type():
    model = build(
        [
            ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
            ("Identity", ["q"], ["i"], {}),
            ("DequantizeLinear", ["i", "s", "z"], ["y"], {}),
        ],
        {"s": np.array(0.1, np.float32), "z": np.array(3, np.int8)},
        shape=["n"],
        out=["n"],
    )
    qdq.recast(model, np.uint8)
    assert types(model) == {"int8"}


def rounded_while_running(perm):
    """Gemm-like: a weight (3, 4) that is rounded per row, clipped and transposed at each call."""
    rng = np.random.default_rng(2)
    weights = {
        "w": rng.normal(size=(3, 4)).astype(np.float32),
        "ws": np.array([0.01, 0.02, 0.04], np.float32),
        "wz": np.zeros(3, np.int8),
        "low": np.array(-100, np.int8),
        "high": np.array(100, np.int8),
    }
    nodes = [
        ("QuantizeLinear", ["w", "ws", "wz"], ["wq"], {"axis": 0}),
        ("Clip", ["wq", "low", "high"], ["wc"], {}),
        ("DequantizeLinear", ["wc", "ws", "wz"], ["wd"], {"axis": 0}),
        ("Transpose", ["wd"], ["wt"], {"perm": perm}),
        ("MatMul", ["x", "wt"], ["y"], {}),
    ]
    return build(nodes, weights, shape=["n", 4], out=["n", 3])


def test_a_weight_that_is_rounded_clipped_and_transposed_each_time_becomes_a_constant():
    model = rounded_while_running([1, 0])
    x = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    before = answer(model, x)
    settled = qdq.settle(model, "u8s8")
    assert [node.op_type for node in settled.graph.node] == ["DequantizeLinear", "MatMul"]
    assert np.array_equal(answer(settled, x), before)
    assert len(model.graph.node) == 5  # the copy was changed, not this
    assert all(item.data_type != 1 or len(item.dims) < 2 for item in settled.graph.initializer)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.floats(1e-3, 1e3))
def test_a_bias_of_32_bits_is_wrong_by_half_a_step_at_most(seed, size):
    rng = np.random.default_rng(seed)
    weights = {
        "s": np.array(0.05, np.float32),
        "z": np.array(128, np.uint8),
        "w": rng.integers(-127, 128, (4, 3)).astype(np.int8),
        "ws": rng.uniform(0.01, 0.1, 3).astype(np.float32),
        "wz": np.zeros(3, np.int8),
        "b": (rng.normal(size=3) * size).astype(np.float32),
    }
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("DequantizeLinear", ["q", "s", "z"], ["d"], {}),
        ("DequantizeLinear", ["w", "ws", "wz"], ["wd"], {"axis": 1}),
        ("Gemm", ["d", "wd", "b"], ["y"], {}),
    ]
    model = build(nodes, weights, shape=["n", 4], out=["n", 3])
    x = np.zeros((1, 4), np.float32)  # what is left is the bias
    before = answer(model, x)
    qdq.quantize_biases(model)
    assert [node.op_type for node in model.graph.node].count("DequantizeLinear") == 3
    step = weights["s"] * weights["ws"]
    assert (np.abs(answer(model, x) - before) <= step * 0.5 + np.abs(before) * 1e-6).all()


@pytest.fixture
def residual():
    """An int8 convolution whose output is added in float, as writers for fused kernels leave it."""
    rng = np.random.default_rng(4)
    weights = {
        "s": np.array(0.03, np.float32),
        "z": np.array(120, np.uint8),
        "w": rng.integers(-127, 128, (2, 2, 1, 1)).astype(np.int8),
        "ws": np.array([0.01, 0.02], np.float32),
        "wz": np.zeros(2, np.int8),
    }
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("DequantizeLinear", ["q", "s", "z"], ["d"], {}),
        ("DequantizeLinear", ["w", "ws", "wz"], ["wd"], {"axis": 0}),
        ("Conv", ["d", "wd"], ["c"], {}),
        ("Add", ["c", "d"], ["y"], {}),
    ]
    return build(nodes, weights, shape=["n", 2, 3, 3], out=["n", 2, 3, 3])


def test_a_convolution_that_hands_on_floats_is_found_and_given_a_scale(residual):
    from onnx import checker

    x = np.random.default_rng(5).normal(size=(2, 2, 3, 3)).astype(np.float32)
    assert qdq.unscaled(residual) == ["c"]
    before = answer(residual, x)
    qdq.scale_outputs(residual, {"c": Range(-16.0, 16.0)})
    checker.check_model(residual)
    assert qdq.unscaled(residual) == []
    step = 32 / 255
    gap = np.abs(answer(residual, x) - before)
    assert 0 < gap.max() <= step / 2 + 1e-5


def test_an_output_of_the_graph_keeps_its_name(residual):
    x = np.random.default_rng(6).normal(size=(2, 2, 3, 3)).astype(np.float32)
    before = answer(residual, x)
    qdq.scale_outputs(residual, {"y": Range(-16.0, 16.0)})
    gap = np.abs(answer(residual, x) - before)
    assert 0 < gap.max() <= 16 / 255 + 1e-5
