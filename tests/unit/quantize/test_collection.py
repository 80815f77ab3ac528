# ruff: noqa: TID253
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from mlserve_cli.errors import DataError, StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize.calibration import collection, probe
from mlserve_cli.quantize.calibration.collection import collect
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.calibration.rows import gather
from mlserve_cli.runtime.tensors import TensorSpec

INPUTS = (TensorSpec("x", "FP32", ("batch", 8)),)
TENSORS = ("x", "h", "r")


@pytest.fixture
def ranges(tmp_path):
    """Collect from a model file and batches."""
    count = iter(range(100))

    def run(model, batches, tensors=TENSORS, inputs=INPUTS, **options):
        folder = tmp_path / f"rows{next(count)}"
        rows = gather(batches, folder, inputs=inputs, progress=Silent())
        return collect(onnx.load(model), tensors, rows, tmp_path, progress=Silent(), **options)

    return run


def split(rows, sizes):
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        yield {"x": part}


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(23, 8)).astype(np.float32)


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "entropy", "mse"])
def test_a_ragged_last_batch_gives_the_same_ranges_as_one_batch(make_mlp, ranges, rows, calibrator):
    model = make_mlp()
    whole = ranges(model, split(rows, [23]), calibrator=calibrator)
    ragged = ranges(model, split(rows, [10, 10, 3]), calibrator=calibrator)
    assert ragged.ranges.keys() == whole.ranges.keys() == set(TENSORS)
    assert (ragged.rows, ragged.batches) == (23, 3)
    for name, expected in whole.ranges.items():
        assert ragged.ranges[name].low == pytest.approx(expected.low, rel=1e-4)
        assert ragged.ranges[name].high == pytest.approx(expected.high, rel=1e-4)


def test_the_range_of_the_input_is_that_of_the_data(make_mlp, ranges, rows):
    found = ranges(make_mlp(), split(rows, [23])).ranges
    assert found["x"] == Range(float(rows.min()), float(rows.max()))
    assert found["r"].low == 0.0  # behind a Relu


@pytest.mark.parametrize("calibrator", ["percentile", "entropy"])
def test_an_outlier_is_cut_off(make_mlp, ranges, calibrator):
    rows = np.random.default_rng(1).normal(size=(3000, 8)).astype(np.float32)
    rows[7, 3] = 400
    found = ranges(
        make_mlp(), split(rows, [3000]), ["x"], calibrator=calibrator, percentile=99.9
    ).ranges["x"]
    assert found.high < 200
    assert found.low < -2


def test_entropy_does_not_keep_a_few_recurring_values_alone(make_mlp, ranges):
    """Nine in ten values recur, near zero, as a background does; the rest is what matters."""
    random = np.random.default_rng(1)
    rows = np.abs(random.normal(size=(5000, 8))).astype(np.float32)
    background = random.choice([0.01, 0.05, 0.11, 0.2], size=rows.shape).astype(np.float32)
    rows = np.where(random.random(rows.shape) < 0.9, background, rows)
    found = ranges(make_mlp(), split(rows, [5000]), ["x"], calibrator="entropy").ranges["x"]
    assert np.mean(rows > found.high) <= 1e-3


def test_mse_cuts_an_outlier_off_where_finer_steps_for_the_rest_are_worth_it(make_mlp, ranges):
    rows = np.random.default_rng(1).normal(size=(150_000, 8)).astype(np.float32)
    rows[7, 3] = 20
    found = ranges(make_mlp(), split(rows, [150_000]), ["x"], calibrator="mse").ranges["x"]
    assert 3.5 < found.high < 10


def test_no_more_values_are_fetched_at_once_than_the_budget(make_mlp, ranges, rows, monkeypatch):
    """Rows are run in as many parts as the budget asks for, whatever batches they came in."""
    model = make_mlp()
    expected = ranges(model, split(rows, [23]), calibrator="mse").ranges
    bytes_a_row = (8 + 16 + 16) * 4
    monkeypatch.setattr(probe, "BUDGET_BYTES", 2 * bytes_a_row)
    fetched, real = [], probe.run

    def watch(opened, outputs, batch, number):
        found = real(opened, outputs, batch, number)
        if "x" in outputs:
            fetched.append(sum(array.nbytes for array in found))
        return found

    monkeypatch.setattr(probe, "run", watch)
    found = ranges(model, split(rows, [23]), calibrator="mse").ranges
    assert max(fetched) == 2 * bytes_a_row
    assert len(fetched) == 12
    for name in TENSORS:
        assert found[name].high == pytest.approx(expected[name].high, rel=1e-4)


def test_growth_over_the_last_quarter_is_measured(make_mlp, ranges):
    rows = np.ones((40, 8), np.float32)
    rows[:, 0] = np.linspace(-1, 0, 40)
    rows[-1] = 4
    assert ranges(make_mlp(), split(rows, [40]), ["x"]).growth["x"] == pytest.approx(1.5)
    assert ranges(make_mlp(), split(rows[:36], [7, 29]), ["x"]).growth["x"] == 0


def test_a_model_of_fixed_batch_gets_batches_of_its_size(tmp_path, ranges, rows):
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["y"])],
        "fixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
    )
    path = tmp_path / "fixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    inputs = (TensorSpec("x", "FP32", (4, 8)),)
    found = ranges(path, split(rows, [10, 13]), ["y"], inputs, calibrator="mse")
    assert (found.rows, found.batches) == (20, 5)
    with pytest.raises(DataError, match="fewer than the 4 rows"):
        ranges(path, split(rows[:3], [3]), ["y"], inputs)


def test_a_model_that_fails_on_a_batch_is_an_error_that_names_it(make_onnx, ranges, rows):
    nodes = [("Reshape", ["x", "shape"], ["y"], "reshape", {})]
    model = make_onnx(nodes, {"shape": np.array([4, 8], np.int64)}, shape=[8], out=[8])
    with pytest.raises(StepError, match="fails on calibration batch 2"):
        ranges(model, split(rows[:9], [4, 5]), tensors=["y"])


@pytest.mark.parametrize(
    ("low", "high", "usable"),
    [(-1.0, 1.0, True), (0.0, 0.0, True), (-3.4e38, 1.0, False), (0.0, float("inf"), False)],
)
def test_a_range_that_a_mask_or_overflow_made_is_not_usable(low, high, usable):
    assert Range(low, high).usable is usable


def test_a_tensor_is_reduced_and_freed_before_later_layers_run(make_onnx, tmp_path, monkeypatch):
    """Else all inner tensors are in memory at once: eight times the model's own run."""
    import onnxruntime as ort

    class Profiled(ort.SessionOptions):
        def __init__(self):
            super().__init__()
            self.enable_profiling = True
            self.profile_file_prefix = str(tmp_path / "profile")

    layers = 5
    names = ["x", *(f"h{i}" for i in range(1, layers)), "y"]
    nodes = [
        ("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"layer{i}", {}) for i in range(layers)
    ]
    weights = {f"w{i}": np.eye(8, dtype=np.float32) for i in range(layers)}
    model = onnx.load(make_onnx(nodes, weights, shape=[8], out=[8]))
    monkeypatch.setattr(ort, "SessionOptions", Profiled)
    outputs = collection._names(names)
    opened = probe.session(model, outputs, tmp_path, nodes=collection._reductions(names))
    opened.run(outputs, {"x": np.ones((2, 8), np.float32)})
    events = json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8"))
    order = [event["name"].removesuffix("_kernel_time") for event in events]
    for number in range(1, layers):
        assert order.index(f"h{number}__high") < order.index(f"layer{min(number + 1, layers - 1)}")
