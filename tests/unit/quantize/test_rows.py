import numpy as np
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize.calibration.rows import gather
from mlserve_cli.runtime.tensors import TensorSpec

INPUTS = (TensorSpec("x", "FP32", ("batch", 8)),)


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(23, 8)).astype(np.float32)


def split(rows, sizes):
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        yield {"x": part}


@pytest.fixture
def gathered(tmp_path):
    count = iter(range(100))

    def run(batches, inputs=INPUTS):
        folder = tmp_path / str(next(count))
        return gather(batches, folder, inputs=inputs, progress=Silent())

    return run


def test_a_generator_can_be_gone_through_again(gathered, rows):
    found = gathered(split(rows, [10, 10, 3]))
    for _ in range(2):
        assert np.array_equal(np.concatenate([batch["x"] for batch in found]), rows)
    assert (found.count, found.batches) == (23, 3)


def test_the_digest_is_of_the_rows_and_not_of_their_batches(gathered, rows):
    one, two = gathered(split(rows, [23])), gathered(split(rows, [10, 10, 3]))
    assert one.digest == two.digest
    other = rows.copy()
    other[22, 7] += 1
    assert gathered(split(other, [23])).digest != one.digest
    assert gathered(split(rows[::-1], [23])).digest != one.digest


def test_text_comes_back_as_it_was(gathered):
    text = np.array([b"a\x00", b"", "größe".encode()], dtype=object)
    inputs = (TensorSpec("t", "BYTES", ("batch",)), TensorSpec("n", "INT64", ("batch", 2)))
    numbers = np.arange(6).reshape(3, 2)
    (batch,) = gathered([{"t": text, "n": numbers}], inputs)
    assert batch["t"].tolist() == text.tolist()
    assert batch["n"].dtype == np.int64
    assert np.array_equal(batch["n"], numbers)


def test_batches_are_read_one_at_a_time(rows, tmp_path):
    """What was read is written before more is asked for, so memory holds one batch."""
    asked = []

    class Watch(Silent):
        def advance(self, steps=1, note=""):
            asked.append("written")

    def batches():
        for batch in split(rows, [8, 8, 7]):
            asked.append("read")
            yield batch

    gather(batches(), tmp_path / "rows", inputs=INPUTS, progress=Watch())
    assert asked == ["read", "written"] * 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_error_that_names_the_batch_and_row(gathered, rows, bad):
    rows[12, 4] = bad
    with pytest.raises(DataError, match=r"calibration batch 2, row 3 of it: input 'x' holds"):
        gathered(split(rows, [10, 10, 3]))


def test_no_calibration_data_is_an_error(gathered):
    with pytest.raises(DataError, match="calibration data is empty"):
        gathered([])


def test_a_batch_of_another_shape_is_an_error_that_names_it(gathered, rows):
    with pytest.raises(DataError, match=r"calibration batch 1 does not fit .* \[-1,8\]"):
        gathered([{"x": rows[:, :5]}])
