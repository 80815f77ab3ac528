import numpy as np
import pytest

from mlserve_cli.errors import DataError, StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import ranges
from mlserve_cli.quantize.ranges import Range
from mlserve_cli.runtime.tensors import TensorSpec

INPUTS = (TensorSpec("x", "FP32", ("batch", 8)),)


def collect(model, batches, tensors=("x", "h", "r")):
    return ranges.collect(model, tensors, batches, inputs=INPUTS, progress=Silent())


def split(rows, sizes):
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        yield {"x": part}


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(23, 8)).astype(np.float32)


def test_a_ragged_last_batch_gives_the_same_ranges_as_one_batch(make_mlp, rows):
    model = make_mlp()
    whole = collect(model, split(rows, [23]))
    ragged = collect(model, split(rows, [10, 10, 3]))
    assert ragged.ranges.keys() == whole.ranges.keys() == {"x", "h", "r"}
    assert (ragged.rows, ragged.batches) == (23, 3)
    for name, expected in whole.ranges.items():
        assert ragged.ranges[name].low == pytest.approx(expected.low, rel=1e-5)
        assert ragged.ranges[name].high == pytest.approx(expected.high, rel=1e-5)


def test_the_range_of_the_input_is_that_of_the_data(make_mlp, rows):
    found = collect(make_mlp(), split(rows, [23])).ranges
    assert found["x"] == Range(float(rows.min()), float(rows.max()))
    assert found["r"].low == 0.0  # behind a Relu


def test_batches_are_read_one_at_a_time(make_mlp, rows):
    """What was read is run before more is asked for, so memory holds one batch."""
    asked = []

    class Watch(Silent):
        def advance(self, steps=1, note=""):
            asked.append("run")

    def batches():
        for batch in split(rows, [8, 8, 7]):
            asked.append("read")
            yield batch

    ranges.collect(make_mlp(), ["h"], batches(), inputs=INPUTS, progress=Watch())
    assert asked == ["read", "run"] * 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_error_that_names_the_batch_and_row(make_mlp, rows, bad):
    rows[12, 4] = bad
    with pytest.raises(DataError, match=r"calibration batch 2, row 3 of it: input 'x' holds"):
        collect(make_mlp(), split(rows, [10, 10, 3]))


def test_no_calibration_data_is_an_error(make_mlp):
    with pytest.raises(DataError, match="calibration data is empty"):
        collect(make_mlp(), [])


def test_a_batch_of_another_shape_is_an_error_that_names_it(make_mlp, rows):
    with pytest.raises(DataError, match=r"calibration batch 1 does not fit .* \[-1,8\]"):
        collect(make_mlp(), [{"x": rows[:, :5]}])


def test_a_model_that_fails_on_a_batch_is_an_error_that_names_it(make_onnx, rows):
    nodes = [("Reshape", ["x", "shape"], ["y"], "reshape", {})]
    model = make_onnx(nodes, {"shape": np.array([4, 8], np.int64)}, shape=[8], out=[8])
    with pytest.raises(StepError, match="fails on calibration batch 2"):
        collect(model, split(rows[:9], [4, 5]), tensors=["y"])


@pytest.mark.parametrize(
    ("low", "high", "usable"),
    [(-1.0, 1.0, True), (0.0, 0.0, True), (-3.4e38, 1.0, False), (0.0, float("inf"), False)],
)
def test_a_range_that_a_mask_or_overflow_made_is_not_usable(low, high, usable):
    assert Range(low, high).usable is usable
