import numpy as np
import pytest

from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize.calibration.collection import Collected
from mlserve_cli.quantize.calibration.review import review
from mlserve_cli.quantize.calibration.rows import gather

RANDOM = np.random.default_rng(6)


def pictures(count, random=RANDOM):
    """Random walks along each line: neighbours are alike."""
    steps = random.normal(size=(count, 1, 8, 8)).astype(np.float32)
    return steps.cumsum(axis=3)


@pytest.fixture
def classifier(make_onnx, pack):
    """A picture → scores of two classes, by the sum of its pixels; packaged with real rows."""

    def make(sample="real"):
        nodes = [
            ("Flatten", ["x"], ["f"], "flat", {}),
            ("Gemm", ["f", "w"], ["y"], "head", {}),
        ]
        held = {"w": np.stack([np.ones(64), -np.ones(64)], axis=1).astype(np.float32)}
        model = make_onnx(nodes, held, shape=[1, 8, 8], out=[2])
        real = pictures(64, np.random.default_rng(0))
        return pack(model, {"x": real}, sample=sample, labels=("yes", "no"))

    return make


@pytest.fixture
def warnings(tmp_path, classifier):
    def run(rows, growth=0.0, sample="real"):
        parent = classifier(sample)
        kept = gather(
            [{"x": rows}], tmp_path / "rows", inputs=parent.manifest.inputs, progress=Silent()
        )
        collected = Collected({}, len(rows), 1, {"x": growth} if growth else {})
        found = review(parent, kept, collected)
        assert all(each.rstrip(".") in found.facts()["summary"] for each in found.warnings)
        return found.warnings

    return run


def test_good_rows_raise_no_doubt(warnings):
    assert warnings(pictures(100), growth=0.01) == ()


def test_ranges_that_still_grow_are_told(warnings):
    assert warnings(pictures(100), growth=0.12) == (
        "ranges still grow by 12% over the last 25% of the calibration rows: more rows are needed.",
    )


def test_few_rows_are_told(warnings):
    (said,) = warnings(pictures(5), growth=0.5)
    assert said.startswith("5 calibration rows are too few")


@pytest.mark.parametrize("sample", ["real", "synthetic"])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_noise_in_place_of_pictures_is_told(warnings, kind, sample):
    noise = getattr(RANDOM, kind)(size=(100, 1, 8, 8)).astype(np.float32) * 3
    said = warnings(noise - noise.mean(), sample=sample)
    assert any("looks like random noise" in each for each in said)
    assert any("in the package's own rows" in each for each in said) == (sample == "real")


def test_rows_of_another_scale_are_told(warnings):
    (said,) = warnings(pictures(100) * 255)
    assert said.startswith("input 'x' of the calibration rows has mean")


def test_one_class_alone_is_told_by_its_label(warnings):
    rows = pictures(300)
    rows = rows[rows.sum(axis=(1, 2, 3)) > 0]
    (said,) = warnings(rows)
    assert said.startswith(f"the model answers 'yes' to all {len(rows)} calibration rows")


def test_repeated_and_constant_rows_are_told(warnings):
    rows = pictures(100)
    rows[40:70] = rows[0]
    rows[70:] = np.linspace(-5, 5, 30).reshape(-1, 1, 1, 1)
    said = warnings(rows)
    assert "30 of 100 calibration rows repeat another one." in said
    assert "30 of 100 calibration rows hold one value everywhere." in said
