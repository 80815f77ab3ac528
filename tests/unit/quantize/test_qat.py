"""Training with roundings: torch must round what the writer rounds, where it rounds it."""

# ruff: noqa: TID253
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from mlserve_cli.errors import StepError
from mlserve_cli.export.export import export
from mlserve_cli.graph import from_torch
from mlserve_cli.package import step
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import steps
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.quantize import static
from mlserve_cli.quantize.calibration.collection import collect
from mlserve_cli.quantize.calibration.grid import Grid
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.calibration.rows import gather
from mlserve_cli.quantize.prepare import prepare
from mlserve_cli.quantize.qat import network, operators, rounding
from mlserve_cli.quantize.selection import Selection, select
from mlserve_cli.quantize.weights import rounded
from mlserve_cli.runtime.tensors import TensorSpec

VALUES = hnp.arrays(np.float32, (3, 4), elements=st.floats(-8, 8, width=32))


@given(VALUES, st.sampled_from([0, 1]), st.booleans())
def test_a_weight_is_rounded_as_the_writer_rounds_it(values, axis, reduce_range):
    found = rounding.weight(torch.tensor(values), axis, reduce_range=reduce_range).numpy()
    expected = rounded(values, axis, reduce_range=reduce_range)
    step = np.abs(values).max(axis=1 - axis, keepdims=True) / (64 if reduce_range else 127)
    # In float32 a value between two levels may fall to the other one.
    assert (np.abs(found - expected) <= step * 1.001 + 1e-12).all()
    assert (np.abs(found - values) <= step / 2 * 1.001 + 1e-12).all()


@given(VALUES, st.floats(0.5, 6), st.floats(0.5, 6))
def test_an_activation_lies_on_the_levels_of_its_grid(values, low, high):
    found = rounding.activation(
        torch.tensor(values), torch.tensor(-low), torch.tensor(high)
    ).numpy()
    grid = Grid.over(Range(-low, high))
    levels = found / grid.scale
    assert np.allclose(levels, np.round(levels), atol=1e-2)
    assert (np.abs(found - grid.nearest(values)) <= grid.scale * 1.01).all()


def test_gradients_pass_straight_through_and_move_the_ends():
    values = torch.tensor([[-3.0, -0.5, 0.3, 9.0]], requires_grad=True)
    low, high = (torch.tensor(each, requires_grad=True) for each in (-1.0, 1.0))
    rounding.activation(values, low, high).sum().backward()
    assert values.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]
    assert high.grad > 0  # what lies beyond it asks it to move there
    assert low.grad > 0


class Residual(nn.Module):
    """Convolutions, a depthwise one, a residual sum, pools, a concatenation, two products."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.inner = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.outer = nn.Conv2d(8, 8, 1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.hidden, self.head = nn.Linear(16 * 4, 16), nn.Linear(16, 10)

    def forward(self, image):
        x = self.stem(image)
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        x = nn.functional.max_pool2d(x, 2)
        x = torch.cat([nn.functional.avg_pool2d(self.left(x), 2), self.right(x)], 1)
        return self.head(torch.relu(self.hidden(x.flatten(1))))


class Encoder(nn.Module):
    """Two layers of attention over tokens of any number."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, image):
        return self.head(self.layers(self.embedding(image)).mean(1))


@pytest.fixture(params=[Residual, Encoder], ids=["residual", "encoder"])
def case(request, tmp_path):
    """The prepared graph, rows by name, and calibration rows."""
    torch.manual_seed(0)
    draws = np.random.default_rng(0)
    if request.param is Residual:
        rows = draws.normal(size=(64, 1, 8, 8)).astype(np.float32)
        spec = TensorSpec("image", "FP32", ("batch", 1, 8, 8))
    else:
        rows = draws.integers(0, 50, (64, 6))
        spec = TensorSpec("image", "INT64", ("batch", 6))
    from_torch.write_onnx(request.param().eval(), {"image": rows[:4]}, tmp_path / "model.onnx")
    prepared = onnx.load(prepare(tmp_path / "model.onnx", tmp_path))
    calibration = gather([{"image": rows}], tmp_path / "rows", inputs=(spec,), progress=Silent())
    return prepared, rows, calibration


def ranges_of(prepared, calibration, folder):
    selection = select(prepared)
    found = collect(prepared, selection.tensors, calibration, folder, progress=Silent())
    return selection, found.ranges


def answers(model, rows):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    (found,) = session.run(None, {"image": rows})
    return found


def test_torch_computes_the_graph_and_its_roundings_as_onnx_runtime_does(case, tmp_path):
    prepared, rows, calibration = case
    selection, ranges = ranges_of(prepared, calibration, tmp_path)
    module = network.build(prepared, selection, ranges)
    expected = answers(prepared, rows)
    scale = np.abs(expected).max()
    with torch.inference_mode():
        module.rounding = False
        assert np.abs(module(torch.tensor(rows)).numpy() - expected).max() < 1e-5 * scale
        module.rounding = True
        simulated = module(torch.tensor(rows)).numpy()
    written = answers(static.write(prepared, selection, ranges), rows)
    lost = np.abs(written - expected).mean()
    assert lost > 1e-4 * scale  # rounding is felt at all
    # What torch simulates is nearer to the int8 model than the float model is, by far.
    assert np.abs(simulated - written).mean() < lost / 4


def test_what_is_learned_is_what_is_written(case, tmp_path):
    prepared, rows, calibration = case
    selection, ranges = ranges_of(prepared, calibration, tmp_path)
    module = network.build(prepared, selection, ranges)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    target = torch.zeros(len(rows), dtype=torch.long)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(torch.tensor(rows)), target).backward()
        optimizer.step()
    arrays, learned = module.learned()
    before = {item.name: onnx.numpy_helper.to_array(item) for item in prepared.graph.initializer}
    assert all(not np.array_equal(array, before[name]) for name, array in arrays.items())
    assert any(learned[name] != ranges[name] for name in learned)
    changed = onnx.ModelProto()
    changed.CopyFrom(prepared)
    for item in changed.graph.initializer:
        if item.name in arrays:
            item.CopyFrom(onnx.numpy_helper.from_array(arrays[item.name], item.name))
    written = answers(static.write(changed, selection, {**ranges, **learned}), rows)
    with torch.inference_mode():
        simulated = module(torch.tensor(rows)).numpy()
    lost = np.abs(answers(changed, rows) - written).mean()
    assert np.abs(simulated - written).mean() < lost / 4


def test_an_operator_that_cannot_be_trained_is_named():
    node = onnx.helper.make_node("Det", ["x"], ["y"], name="the determinant")
    graph = onnx.helper.make_graph([node], "g", [], [])
    with pytest.raises(StepError, match=r"'Det'.*'the determinant'"):
        network.build(onnx.helper.make_model(graph), None, {})


FLOATS = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
WHOLE = np.array([[0, 2, -1], [1, 1, 0]])
INFINITE = np.array([np.inf, -np.inf, np.nan, 1], np.float32)
OPERATORS = {
    "Range": ([np.array(2), np.array(11), np.array(3)], {}),
    "Range backwards": ([np.array(5), np.array(0), np.array(-2)], {}),
    "Range of floats": ([np.float32(0), np.float32(1), np.float32(0.25)], {}),
    "CumSum": ([np.ones((2, 3), np.int32), np.array(1)], {}),
    "GatherND": ([FLOATS, np.array([[0, 2], [1, -1]])], {}),
    "GatherND by rows": ([FLOATS, np.array([[[0], [2]], [[1], [-1]]])], {"batch_dims": 1}),
    "GatherElements": ([FLOATS[:, :, 0], WHOLE], {"axis": 1}),
    "Gather": ([FLOATS, WHOLE], {"axis": 1}),
    "Tile": ([FLOATS, np.array([1, 2, 3])], {}),
    "Trilu": ([FLOATS, np.array(1)], {"upper": 0}),
    "ConstantOfShape": (
        [np.array([2, 3])],
        {"value": onnx.helper.make_tensor("value", onnx.TensorProto.INT64, [1], [7])},
    ),
    "Split": ([FLOATS, np.array([1, 3])], {"axis": 2}),
    "Split equally": ([FLOATS], {"axis": 2, "num_outputs": 2}),
    "Shape": ([FLOATS], {"start": 1}),
    "GreaterOrEqual": ([WHOLE, np.array(1)], {}),
    "LessOrEqual": ([WHOLE, np.array(1)], {}),
    "IsInf": ([INFINITE], {}),
    "IsInf above zero": ([INFINITE], {"detect_negative": 0}),
    "IsInf below zero": ([INFINITE], {"detect_positive": 0}),
    "Pow": ([np.abs(FLOATS), np.array(2)], {}),
    "Pow of whole numbers": ([np.abs(WHOLE), np.float32(2.5)], {}),
    "Max": ([WHOLE, WHOLE.T.reshape(2, 3), np.array(1)], {}),
    "Clip": ([WHOLE, np.array(0), np.array(1)], {}),
    "ReduceSum": ([FLOATS, np.array([1])], {"keepdims": 0}),
    "ReduceSum of whole numbers": ([WHOLE.astype(np.int32)], {}),
    "ReduceL2": ([FLOATS, np.array([-1])], {}),
    "ReduceMax": ([FLOATS], {}),
    "ReduceMean of nothing": (
        [FLOATS, np.array([], np.int64)],
        {"noop_with_empty_axes": 1},
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_torch_computes_an_operator_as_onnx_runtime_does(name):
    given, attributes = OPERATORS[name]
    operator = name.split()[0]
    names = [f"x{place}" for place in range(len(given))]
    outputs = ["first", "second"] if operator == "Split" else ["first"]
    node = onnx.helper.make_node(operator, names, outputs, **attributes)
    dtypes = [onnx.helper.np_dtype_to_tensor_dtype(np.asarray(each).dtype) for each in given]
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [
            onnx.helper.make_tensor_value_info(each, dtype, np.shape(value))
            for each, dtype, value in zip(names, dtypes, given, strict=True)
        ],
        [onnx.helper.make_value_info(each, onnx.TypeProto()) for each in outputs],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = ort.InferenceSession(onnx.shape_inference.infer_shapes(model).SerializeToString())
    expected = session.run(None, dict(zip(names, map(np.asarray, given), strict=True)))
    found = operators.table()[operator](node, [torch.from_numpy(np.array(each)) for each in given])
    found = found if isinstance(found, tuple) else (found,)
    for left, right in zip(expected, found, strict=True):
        assert (left.dtype, left.shape) == (right.numpy().dtype, tuple(right.shape))
        assert np.allclose(left, right.numpy(), atol=1e-6)


def test_an_encoder_of_hugging_face_is_trained_with_its_roundings(tmp_path):
    pytest.importorskip("transformers")
    text = Path(__file__).with_name("sentences.py").read_text()
    (tmp_path / "model.py").write_text(text)
    parent = export(str(tmp_path / "model.py"), tmp_path / "float", progress=Silent())
    prepared = onnx.load(prepare(parent.model, tmp_path))
    # Its positions and its mask are computed from the sizes of its inputs.
    assert {"Range", "GatherND"} <= {node.op_type for node in prepared.graph.node}
    module = network.build(prepared, Selection((), (), frozenset()), {}).eval()
    session = ort.InferenceSession(prepared.SerializeToString())
    definition = Definition.load(tmp_path / "model.py")
    for length in (8, 5):
        rows, _ = definition.function("rows")(9, length)
        (expected,) = session.run(None, rows)
        with torch.inference_mode():
            found = module(*(torch.from_numpy(rows[name]) for name in module.inputs))
        assert np.abs(found.numpy() - expected).max() < 1e-5

    made = step.run(
        steps.quantize(Cases.of(parent).calibration(parent), cache=False, method="qat"),
        parent,
        tmp_path / "qat",
        progress=Silent(),
    )
    kinds = {node.op_type for node in onnx.load(made.model).graph.node}
    assert "QuantizeLinear" in kinds
    (evidence,) = made.evidence("training")
    assert len(evidence["curve"]) == 1


@pytest.fixture(scope="module")
def separable(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a network this small waits for its threads most of the time
    folder = tmp_path_factory.mktemp("separable")
    (folder / "model.py").write_text(Path(__file__).with_name("separable.py").read_text())
    yield export(
        str(folder / "model.py"),
        folder / "package",
        name="separable",
        calibration=None,
        progress=Silent(),
    )
    torch.set_num_threads(before)


def test_training_recovers_most_of_what_static_int8_loses(separable, tmp_path):
    cases = Cases.of(separable)

    def accuracy(package):
        return cases.evaluate(package, reference=separable, progress=Silent()).value

    made = {
        method: step.run(
            steps.quantize(cases.calibration(separable), cache=False, method=method, **more),
            separable,
            tmp_path / method,
            progress=Silent(),
        )
        for method, more in (("static", {}), ("qat", {"epochs": 12}))
    }
    lost = accuracy(separable) - accuracy(made["static"])
    assert lost > 10
    assert accuracy(separable) - accuracy(made["qat"]) < lost / 2
    assert made["qat"].manifest.variant == "int8-qat"
    facts = made["qat"].manifest.lineage[-1].parameters
    assert (facts["quantizer"], facts["epochs"], facts["seed"]) == ("qat", 12, 0)
    (evidence,) = made["qat"].evidence("training")
    assert evidence["precision"] == "fp32"
    assert len(evidence["curve"]) == 12


def test_a_package_without_training_rows_is_refused(separable, tmp_path):
    shutil.copytree(separable.path, tmp_path / "copy")
    definition = tmp_path / "copy" / "source" / "definition.py"
    definition.write_text(definition.read_text().replace("def training(", "def other("))
    step_of = steps.quantize([], method="qat")
    with pytest.raises(StepError, match=r"has no training\(\)"):
        step_of.requires(Package(tmp_path / "copy", separable.manifest))
    definition.unlink()
    with pytest.raises(StepError, match="no definition"):
        step_of.requires(Package(tmp_path / "copy", separable.manifest))


def test_what_training_replaces_is_refused(separable):
    with pytest.raises(StepError, match="does not smooth"):
        steps.quantize([], method="qat", smooth=True).requires(separable)
