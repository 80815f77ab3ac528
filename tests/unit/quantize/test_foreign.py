# ruff: noqa: TID253
"""Graphs as other tools write them: each is quantized, or it is said why not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlserve_cli.errors import DataError, StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.quantize import Choices, DynamicStep, StaticStep

RANDOM = np.random.default_rng(4)


def weights(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


@pytest.fixture
def package(tmp_path, pack):
    """A package of nodes over any inputs and outputs: name → (type, shape)."""

    def make(nodes, held, inputs, outputs, sample, opset=17, ir_version=8):
        def values(specs):
            return [
                helper.make_tensor_value_info(name, kind, shape)
                for name, (kind, shape) in specs.items()
            ]

        graph = helper.make_graph(
            nodes,
            "foreign",
            values(inputs),
            values(outputs),
            [numpy_helper.from_array(value, name) for name, value in held.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
        )
        if ir_version >= 4:
            onnx.checker.check_model(model)
        path = tmp_path / "foreign.onnx"
        onnx.save(model, path)
        return pack(path, sample)

    return make


F = TensorProto.FLOAT


def static(parent, sample, tmp_path, **choices):
    step = StaticStep([sample], choices=Choices(**choices))
    return run(step, parent, tmp_path / "int8", progress=Silent())


def difference(parent, made, sample):
    outputs = []
    for each in (parent, made):
        engine = each.engine()
        outputs.append(engine.run(sample))
        engine.close()
    before, after = outputs
    assert before.keys() == after.keys()
    return max(
        float(np.sqrt(np.mean((before[name] - after[name]) ** 2)) / before[name].std())
        for name in before
        if before[name].dtype.kind == "f"
    )


def kernels(made):
    (facts,) = made.evidence("int8-kernels")
    return facts["int8_nodes"], facts["float_nodes"]


def left(made):
    return {
        (item["operator"], item["reason"])
        for facts in made.evidence("left-in-float")
        for item in facts["nodes"]
    }


def both_ways(nodes, held, shape, out, package, tmp_path, **options):
    """Quantize a graph of x → y with every choice on; return parent, result and rows."""
    rows = RANDOM.normal(size=(64, *shape)).astype(np.float32)
    parent = package(
        nodes,
        held,
        {"x": (F, ["batch", *shape])},
        {"y": (F, ["batch", *out])},
        {"x": rows},
        **options,
    )
    made = static(parent, {"x": rows}, tmp_path, smooth=True, bias_correction=True)
    return made, difference(parent, made, {"x": rows})


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_an_old_opset(package, tmp_path, opset):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    made, far = both_ways(
        nodes, {"w": weights(4, 3, 3, 3)}, [3, 6, 6], [4, 6, 6], package, tmp_path, opset=opset
    )
    assert kernels(made) == (1, 0)
    assert far < 0.05
    onnx.checker.check_model(onnx.load(made.model))


def test_weights_in_constant_nodes(package, tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights(8, 4))),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["y"]),
    ]
    made, far = both_ways(nodes, {}, [8], [4], package, tmp_path)
    assert kernels(made) == (1, 0)
    assert far < 0.05


def test_weights_that_old_exporters_list_as_inputs(package, tmp_path):
    rows = RANDOM.normal(size=(64, 8)).astype(np.float32)
    parent = package(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        {"w": weights(8, 4), "b": weights(4)},
        {"x": (F, ["batch", 8]), "w": (F, [8, 4]), "b": (F, [4])},
        {"y": (F, ["batch", 4])},
        {"x": rows},
        opset=11,
        ir_version=3,
    )
    made = static(parent, {"x": rows}, tmp_path)
    assert kernels(made) == (1, 0)
    assert difference(parent, made, {"x": rows}) < 0.05


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolutions_of_one_and_three_dimensions(package, tmp_path, dimensions):
    size = [6] * dimensions
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1] * dimensions),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"]),
    ]
    held = {"w": weights(4, 3, *[3] * dimensions), "v": weights(2, 4, *[1] * dimensions)}
    made, far = both_ways(nodes, held, [3, *size], [2, *size], package, tmp_path)
    assert kernels(made) == (2, 0)
    assert far < 0.05


def test_grouped_and_dilated_convolutions(package, tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], group=2, dilations=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("Conv", ["h", "v"], ["y"], strides=[2, 2]),
    ]
    held = {"w": weights(8, 2, 3, 3), "v": weights(4, 8, 1, 1)}
    made, far = both_ways(nodes, held, [4, 8, 8], [4, 4, 4], package, tmp_path)
    assert kernels(made) == (2, 0)
    assert far < 0.05


def test_a_transposed_convolution_is_named_and_left_in_float(package, tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="down", strides=[2, 2]),
        helper.make_node("ConvTranspose", ["h", "v"], ["y"], name="up", strides=[2, 2]),
    ]
    held = {"w": weights(8, 3, 2, 2), "v": weights(8, 3, 2, 2)}
    made, far = both_ways(nodes, held, [3, 8, 8], [3, 8, 8], package, tmp_path)
    assert left(made) == {
        ("ConvTranspose", "ONNX Runtime has no static int8 kernel for ConvTranspose")
    }
    assert far < 0.05


def test_one_weight_in_two_layers(package, tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w"], ["y"]),
    ]
    made, far = both_ways(nodes, {"w": weights(8, 8)}, [8], [8], package, tmp_path)
    assert kernels(made)[0] == 2
    assert far < 0.05


def test_one_weight_along_both_of_its_axes(package, tmp_path):
    """Tied weights: the scale an output channel would be along another axis each time."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="in"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w"], ["y"], name="out", transB=1),
    ]
    held = {"w": weights(8, 16) * np.logspace(-2, 1, 16, dtype=np.float32)}
    made, far = both_ways(nodes, held, [8], [8], package, tmp_path)
    assert kernels(made)[0] == 2
    assert far < 0.05


def test_an_embedding_that_is_also_the_head(package, tmp_path):
    """A table that Gather reads stays in float for it."""
    ids = RANDOM.integers(0, 20, (64, 5))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["m", "table"], ["y"], transB=1),
    ]
    parent = package(
        nodes,
        {"table": weights(20, 16)},
        {"ids": (TensorProto.INT64, ["batch", 5])},
        {"y": (F, ["batch", 20])},
        {"ids": ids},
    )
    made = static(parent, {"ids": ids}, tmp_path, smooth=True, bias_correction=True)
    assert kernels(made) == (1, 0)
    assert difference(parent, made, {"ids": ids}) < 0.05


@pytest.mark.parametrize("attributes", [{"transB": 1}, {"alpha": 0.5}, {"alpha": 2.0, "beta": 3.0}])
def test_a_gemm_with_attributes(package, tmp_path, attributes):
    held = {"w": weights(4, 8) if "transB" in attributes else weights(8, 4), "b": weights(4)}
    made, far = both_ways(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], **attributes)],
        held,
        [8],
        [4],
        package,
        tmp_path,
    )
    assert far < 0.05
    assert sum(kernels(made)) == 1


def test_a_gemm_of_a_transposed_activation(package, tmp_path):
    """Its rows are columns: no batch of rows, so it is fed eight of them."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Tanh", ["t"], ["u"]),
        helper.make_node("Gemm", ["u", "w"], ["y"], transA=1),
    ]
    made, far = both_ways(nodes, {"w": weights(8, 4)}, [8], [4], package, tmp_path)
    assert far < 0.05
    assert kernels(made)[0] <= 1


def test_a_product_with_a_stack_of_constant_matrices(package, tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    held = {"w": weights(3, 8, 4), "v": weights(4, 2)}
    made, far = both_ways(nodes, held, [3, 5, 8], [3, 5, 2], package, tmp_path)
    assert far < 0.05
    assert kernels(made) == (1, 1)
    assert left(made) == {("MatMul", "its weight is a stack of matrices")}


def test_attention_scores_stay_in_float_and_are_named(package, tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["a"], name="query"),
        helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "t"], ["s"], name="scores"),
        helper.make_node("Softmax", ["s"], ["y"], axis=-1),
    ]
    made, far = both_ways(nodes, {"q": weights(8, 8) / 8}, [5, 8], [5, 5], package, tmp_path)
    assert ("MatMul", "both sides are activations") in left(made)
    assert far < 0.1


def test_branches_stay_in_float_and_are_named(package, tmp_path):
    def branch(name, nodes):
        out = helper.make_tensor_value_info(name, F, ["batch", 4])
        return helper.make_graph(nodes, name, [], [out])

    yes = branch("yes", [helper.make_node("MatMul", ["h", "v"], ["yes"], name="inner")])
    no = branch("no", [helper.make_node("Neg", ["h"], ["no"])])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="outer"),
        helper.make_node("ReduceMax", ["h"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], name="choice", then_branch=yes, else_branch=no),
    ]
    held = {"w": weights(8, 4), "v": weights(4, 4), "zero": np.array(0, np.float32)}
    made, far = both_ways(nodes, held, [8], [4], package, tmp_path)
    assert left(made) == {("MatMul", "it lies inside If 'choice'")}
    assert kernels(made)[0] == 1
    assert far < 0.05


def recurrent(kind, gates):
    return (
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            helper.make_node(kind, ["t", "w", "r"], ["", "h"], name="cell", hidden_size=16),
            helper.make_node("Squeeze", ["h", "axis"], ["s"]),
            helper.make_node("Gemm", ["s", "v"], ["y"], name="head"),
        ],
        {
            "w": weights(1, gates * 16, 8) / 4,
            "r": weights(1, gates * 16, 16) / 4,
            "v": weights(16, 3),
            "axis": np.array([0]),
        },
    )


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_a_recurrent_cell_stays_in_float_in_static_int8(package, tmp_path, kind, gates):
    nodes, held = recurrent(kind, gates)
    made, far = both_ways(nodes, held, [5, 8], [3], package, tmp_path)
    assert left(made) == {(kind, f"ONNX Runtime has no static int8 kernel for {kind}")}
    assert far < 0.05


def test_an_lstm_runs_in_dynamic_int8(package, tmp_path):
    nodes, held = recurrent("LSTM", 4)
    rows = RANDOM.normal(size=(32, 5, 8)).astype(np.float32)
    parent = package(
        nodes, held, {"x": (F, ["batch", 5, 8])}, {"y": (F, ["batch", 3])}, {"x": rows}
    )
    made = run(DynamicStep(), parent, tmp_path / "int8", progress=Silent())
    (facts,) = made.evidence("int8-kernels")
    assert facts["nodes"]["DynamicQuantizeLSTM"] == 1
    assert difference(parent, made, {"x": rows}) < 0.05


def test_several_inputs_and_outputs_of_several_types(package, tmp_path):
    nodes = [
        helper.make_node("Cast", ["i"], ["f"], to=F),
        helper.make_node("Concat", ["x", "f"], ["c"], axis=1),
        helper.make_node("Gemm", ["c", "w"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["class"], axis=1, keepdims=0),
    ]
    sample = {
        "x": RANDOM.normal(size=(64, 8)).astype(np.float32),
        "i": RANDOM.integers(0, 3, (64, 2)),
    }
    parent = package(
        nodes,
        {"w": weights(10, 4)},
        {"x": (F, ["batch", 8]), "i": (TensorProto.INT64, ["batch", 2])},
        {"scores": (F, ["batch", 4]), "class": (TensorProto.INT64, ["batch"])},
        sample,
    )
    made = static(parent, sample, tmp_path, calibrator="mse")
    assert kernels(made) == (1, 0)
    assert difference(parent, made, sample) < 0.05


def test_one_row_is_enough_to_go_on_and_too_few_not_to_be_told(package, tmp_path):
    said = []

    class Watch(Silent):
        def say(self, text):
            said.append(text)

    rows = RANDOM.normal(size=(1, 8)).astype(np.float32)
    parent = package(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        {"w": weights(8, 4)},
        {"x": (F, ["batch", 8])},
        {"y": (F, ["batch", 4])},
        {"x": RANDOM.normal(size=(16, 8)).astype(np.float32)},
    )
    step = StaticStep([{"x": rows}], choices=Choices(calibrator="entropy"))
    run(step, parent, tmp_path / "int8", progress=Watch())
    assert said == ["1 calibration row is too few to find ranges: a hundred or more are usual."]
    with pytest.raises(DataError, match="empty"):
        run(StaticStep([]), parent, tmp_path / "none", progress=Silent())


def test_an_interrupted_run_leaves_nothing(package, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    rows = RANDOM.normal(size=(16, 8)).astype(np.float32)
    parent = package(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        {"w": weights(8, 4)},
        {"x": (F, ["batch", 8])},
        {"y": (F, ["batch", 4])},
        {"x": rows},
    )

    def batches():
        yield {"x": rows}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(StaticStep(batches()), parent, tmp_path / "out" / "int8", progress=Silent())
    assert list((tmp_path / "out").iterdir()) == []
    assert list(scratch.iterdir()) == []


def test_a_model_too_large_for_the_memory_is_refused_before_anything_is_read(
    package, tmp_path, monkeypatch
):
    rows = RANDOM.normal(size=(16, 8)).astype(np.float32)
    parent = package(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        {"w": weights(8, 4)},
        {"x": (F, ["batch", 8])},
        {"y": (F, ["batch", 4])},
        {"x": rows},
    )
    from mlserve_cli.runtime import hardware

    real = hardware.detect

    def small():
        import msgspec

        return msgspec.structs.replace(real(), memory_bytes=100_000_000)

    monkeypatch.setattr(hardware, "detect", small)

    def batches():
        raise AssertionError("the rows were read")
        yield

    with pytest.raises(StepError, match=r"takes about 0\.4 GB of memory, and this process may use"):
        run(StaticStep(batches()), parent, tmp_path / "int8", progress=Silent())


def test_a_relu_that_a_branch_reads_as_well_is_not_folded_away(package, tmp_path):
    yes, no = (
        helper.make_graph(
            [helper.make_node("Mul", ["r", factor], ["z"], name=f"times_{factor}")],
            factor,
            [],
            [helper.make_tensor_value_info("z", F, None)],
        )
        for factor in ("one", "two")
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], ["d"], name="after"),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["yes"]),
        helper.make_node("If", ["yes"], ["y"], name="choice", then_branch=yes, else_branch=no),
    ]
    held = {
        "w": weights(4, 3, 1, 1), "w2": weights(4, 4, 1, 1), "one": np.float32(1),
        "two": np.float32(2), "zero": np.float32(0),
    }  # fmt: skip
    sample = {"x": weights(16, 3, 4, 4)}
    shape = (F, ["batch", 4, 4, 4])
    parent = package(
        nodes, {name: np.asarray(value) for name, value in held.items()},
        {"x": (F, ["batch", 3, 4, 4])}, {"d": shape, "y": shape}, sample,
    )  # fmt: skip
    made = static(parent, sample, tmp_path)
    engine = made.engine()
    try:
        assert engine.run(sample)["y"].min() >= 0  # below it stands only what the Relu cuts
    finally:
        engine.close()
