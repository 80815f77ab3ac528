# ruff: noqa: TID253
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import Choices, static
from mlserve_cli.quantize.calibration.cache import RangeCache
from mlserve_cli.quantize.calibration.rows import gather
from mlserve_cli.quantize.prepare import prepare
from mlserve_cli.runtime.tensors import TensorSpec

ROWS = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)


class Watched(RangeCache):
    """Counts what was found."""

    def __init__(self, folder):
        super().__init__(folder)
        self.hits = self.misses = 0

    def read(self, key, tensors):
        found = super().read(key, tensors)
        self.hits += found is not None
        self.misses += found is None
        return found


@pytest.fixture
def cache(tmp_path):
    return Watched(tmp_path / "kept")


@pytest.fixture
def quantized(make_mlp, tmp_path, cache):
    model = onnx.load(prepare(make_mlp(), tmp_path))
    count = iter(range(100))

    def run(rows=ROWS, change=lambda model: None, **choices):
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        change(changed)
        kept = gather(
            [{"x": rows}],
            tmp_path / f"rows{next(count)}",
            inputs=(TensorSpec("x", "FP32", ("batch", 8)),),
            progress=Silent(),
        )
        return static.quantize(changed, kept, Choices(**choices), cache=cache)

    return run


@pytest.mark.parametrize("calibrator", ["minmax", "mse"])
def test_the_same_model_rows_and_method_are_found_again(quantized, cache, calibrator):
    first = quantized(calibrator=calibrator)
    second = quantized(calibrator=calibrator)
    assert (cache.hits, cache.misses) == (1, 1)
    assert second.model.SerializeToString() == first.model.SerializeToString()
    assert second.collected == first.collected


def test_another_models_ranges_are_never_taken(quantized, cache):
    """The same graph with the same names and other weights is another model."""

    def grow(model):
        weight = next(item for item in model.graph.initializer if item.name == "w1")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 3, "w1"))

    before = quantized().collected.ranges["r"]
    after = quantized(change=grow).collected.ranges["r"]
    assert (cache.hits, cache.misses) == (0, 2)
    assert after.high > 2 * before.high


def test_other_rows_and_another_method_are_looked_for_apart(quantized, cache):
    quantized()
    quantized(rows=ROWS[:40])
    quantized(calibrator="mse")
    quantized(calibrator="percentile", percentile=99.0)
    quantized(calibrator="percentile", percentile=98.0)
    assert (cache.hits, cache.misses) == (0, 5)


@pytest.mark.parametrize("damage", ["", "{}", "[1]", "null", "truncate", "change", "nan"])
def test_what_is_damaged_is_as_good_as_missing(quantized, cache, tmp_path, damage):
    expected = quantized().collected
    (file,) = (tmp_path / "kept").glob("*.json")
    text = file.read_text()
    record = json.loads(text)
    if damage == "truncate":
        file.write_text(text[: len(text) // 2])
    elif damage in ("change", "nan"):
        record["body"]["ranges"]["x"][1] = float("nan") if damage == "nan" else 1e3
        file.write_text(json.dumps(record))
    else:
        file.write_text(damage)
    assert quantized().collected == expected
    assert (cache.hits, cache.misses) == (0, 2)
    quantized()
    assert cache.hits == 1  # written anew


def test_a_place_that_cannot_be_written_is_no_error(quantized, cache, tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert quantized().collected.rows == 60


def test_old_files_go(quantized, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("mlserve_cli.quantize.calibration.cache.KEPT", 2)
    for count in (30, 40, 50):
        quantized(rows=ROWS[:count])
    assert len(list((tmp_path / "kept").iterdir())) == 2
