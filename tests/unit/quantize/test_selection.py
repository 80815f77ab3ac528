import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.quantize.prepare import prepare
from mlserve_cli.quantize.selection import select


def selected(model, tmp_path, exclude=()):
    import onnx

    return select(onnx.load(prepare(model, tmp_path)), exclude)


def weights(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_the_last_product_keeps_its_output_in_float(make_mlp, tmp_path):
    found = selected(make_mlp(), tmp_path)
    assert found.nodes == ("first", "relu", "last")
    assert found.float_outputs == {"y"}
    assert set(found.tensors) == {"x", "h", "r"}


def test_a_node_can_be_left_in_float_by_name_or_pattern(make_mlp, tmp_path):
    assert selected(make_mlp(), tmp_path, ["last"]).nodes == ("first", "relu")
    assert selected(make_mlp(), tmp_path, ["f*"]).nodes == ("last",)


def test_an_exclusion_that_hits_nothing_is_an_error_that_lists_the_nodes(make_mlp, tmp_path):
    with pytest.raises(StepError, match="'lats' cannot be excluded") as error:
        selected(make_mlp(), tmp_path, ["lats"])
    assert error.value.hint == "they are first, last"


def test_excluding_everything_is_an_error(make_mlp, tmp_path):
    with pytest.raises(StepError, match="nothing left to quantize"):
        selected(make_mlp(), tmp_path, ["*"])


def test_a_residual_add_between_convolutions_is_quantized(make_onnx, tmp_path):
    nodes = [
        ("Conv", ["x", "w1"], ["a"], "one", {"pads": [1, 1, 1, 1]}),
        ("Conv", ["a", "w2"], ["b"], "two", {"pads": [1, 1, 1, 1]}),
        ("Add", ["a", "b"], ["s"], "residual", {}),
        ("Relu", ["s"], ["y"], "relu", {}),
    ]
    made = {"w1": weights(4, 3, 3, 3), "w2": weights(4, 4, 3, 3)}
    model = make_onnx(nodes, made, shape=[3, 6, 6], out=[4, 6, 6])
    assert selected(model, tmp_path).nodes == ("one", "two", "residual", "relu")


def test_a_mask_added_to_scores_stays_in_float(make_onnx, tmp_path):
    nodes = [
        ("MatMul", ["x", "w"], ["scores"], "scores", {}),
        ("Add", ["scores", "mask"], ["masked"], "masking", {}),
        ("Softmax", ["masked"], ["y"], "softmax", {}),
    ]
    made = {"w": weights(8, 8), "mask": np.full((4, 8), -3e38, np.float32)}
    found = selected(make_onnx(nodes, made, shape=[4, 8], out=[4, 8]), tmp_path)
    assert found.nodes == ("scores",)
    assert found.tensors == ("x",)


def test_a_product_of_two_activations_stays_in_float(make_onnx, tmp_path):
    nodes = [
        ("Transpose", ["x"], ["t"], "turn", {"perm": [0, 2, 1]}),
        ("MatMul", ["x", "t"], ["scores"], "scores", {}),
        ("MatMul", ["scores", "w"], ["y"], "project", {}),
    ]
    model = make_onnx(nodes, {"w": weights(5, 2)}, shape=[5, 4], out=[5, 2])
    assert selected(model, tmp_path).nodes == ("project",)


def test_a_product_with_a_bias_is_excluded_by_the_name_that_it_had(make_onnx, tmp_path):
    nodes = [
        ("MatMul", ["x", "w"], ["h"], "one", {}),
        ("Add", ["h", "b"], ["r"], "bias", {}),
        ("MatMul", ["r", "v"], ["y"], "two", {}),
    ]
    made = {"w": weights(8, 8), "b": weights(8), "v": weights(8, 2)}
    model = make_onnx(nodes, made, shape=[8], out=[2])
    assert selected(model, tmp_path, ["one"]).nodes == ("two",)
