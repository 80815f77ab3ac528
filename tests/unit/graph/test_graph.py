"""Small helpers over a graph: names, the batch dimension, what it computes in, what it reveals."""
# ruff: noqa: TID253

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlserve_cli.errors import StepError
from mlserve_cli.graph import clean, precision
from mlserve_cli.graph.batch import name_batch
from mlserve_cli.graph.names import rename_outputs


def graph(nodes, *, first="N", weights=(), outputs=("y",)):
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [first, 3])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [first, 3])
                for name in outputs
            ],
            list(weights),
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


def run(model, rows=2):
    session = ort.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": np.ones((rows, 3), np.float32)})


def relu(**fields):
    return graph([helper.make_node("Relu", ["x"], ["y"])], **fields)


def test_a_batch_of_any_name_is_called_batch_on_every_side():
    model = relu(first="unk__7")

    assert name_batch(model)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("first", [4, "batch", None])
def test_a_fixed_a_named_and_a_nameless_batch_stay_as_they_are(first):
    model = relu(first=first)
    before = model.SerializeToString()

    assert not name_batch(model)
    assert model.SerializeToString() == before


def test_inputs_whose_first_sizes_have_different_names_stay_as_they_are():
    model = relu()
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["M", 3]))

    assert not name_batch(model)


def test_outputs_are_renamed_wherever_they_are_used_also_within_a_branch():
    constant = helper.make_node(
        "Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))
    )
    branches = {
        name: helper.make_graph(
            [helper.make_node(operator, ["y"], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)],
        )
        for name, operator in (("then", "Neg"), ("other", "Abs"))
    }
    model = graph(
        [
            helper.make_node("Relu", ["x"], ["y"]),
            constant,
            helper.make_node(
                "If", ["yes"], ["z"], then_branch=branches["then"], else_branch=branches["other"]
            ),
        ],
        outputs=("y", "z"),
    )

    rename_outputs(model, ["scores", "y"])  # the second takes the first one's old name

    onnx.checker.check_model(model)
    scores, negated = run(model)
    assert np.array_equal(scores, -negated)
    assert [value.name for value in model.graph.output] == ["scores", "y"]


def test_an_inner_value_makes_way_for_an_output_of_its_name():
    model = graph(
        [helper.make_node("Relu", ["x"], ["label"]), helper.make_node("Neg", ["label"], ["y"])]
    )

    rename_outputs(model, ["label"])

    onnx.checker.check_model(model)
    assert np.array_equal(run(model)[0], -np.ones((2, 3)))


def test_an_output_cannot_take_the_name_of_an_input():
    with pytest.raises(StepError, match="cannot be called 'x'"):
        rename_outputs(relu(), ["x"])


def test_stripping_takes_out_all_that_exporters_write_of_a_machine():
    model = relu()
    for place in (model, model.graph, model.graph.node[0], model.graph.input[0]):
        place.doc_string = "/home/somebody/secret.py"
        place.metadata_props.add(key="stack", value="/home/somebody/secret.py")

    clean.strip(model)

    assert b"somebody" not in model.SerializeToString()
    assert run(model)[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("dtype", "variant"), [(np.float32, "fp32"), (np.float16, "fp16"), (np.int64, "fp32")]
)
def test_the_variant_is_what_most_weights_are(dtype, variant):
    model = relu(weights=[numpy_helper.from_array(np.ones((8, 8), dtype), "w")])

    assert precision.of(model) == variant


def test_a_graph_that_quantizes_is_int8():
    model = graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        weights=[
            numpy_helper.from_array(np.float32(0.1), "s"),
            numpy_helper.from_array(np.uint8(0), "z"),
        ],
    )

    assert precision.of(model) == "int8"
