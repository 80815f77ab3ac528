import numpy as np
import pytest

from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize.calibration.collection import collect
from mlserve_cli.quantize.calibration.rows import gather
from mlserve_cli.quantize.prepare import prepare
from mlserve_cli.quantize.selection import select
from mlserve_cli.quantize.sensitivity import rank
from mlserve_cli.runtime.tensors import TensorSpec

INPUTS = (TensorSpec("x", "FP32", ("batch", 8)),)


def ranked(path, tmp_path, batches):
    import onnx

    prepared = onnx.load(prepare(path, tmp_path))
    selection = select(prepared)
    rows = gather(batches, tmp_path / "rows", inputs=INPUTS, progress=Silent())
    found = collect(prepared, selection.tensors, rows, tmp_path, progress=Silent())
    return rank(prepared, selection, found.ranges, rows, tmp_path, progress=Silent())


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(size, 8)).astype(np.float32)} for size in (16, 7, 1)]


def test_the_node_whose_input_has_an_outlier_is_the_most_sensitive(make_onnx, tmp_path, batches):
    rng = np.random.default_rng(1)
    weights = {f"w{i}": rng.normal(size=(8, 8)).astype(np.float32) for i in range(2)}
    weights["big"] = np.array([1e3] + [1.0] * 7, dtype=np.float32)
    nodes = [
        ("Gemm", ["x", "w0"], ["h"], "plain", {}),
        ("Mul", ["h", "big"], ["m"], "outlier", {}),  # one column a thousand times the others
        ("Gemm", ["m", "w1"], ["y"], "after", {}),
    ]
    # The column with the outlier counts for nothing, so all that is left is rounded away.
    weights["w1"][0] = 0
    found = ranked(make_onnx(nodes, weights, shape=[8], out=[8]), tmp_path, batches)
    assert [each.node for each in found] == ["after", "plain"]
    assert found[0].noise > 10 * found[1].noise


def test_the_error_is_that_of_rounding_and_does_not_depend_on_how_rows_are_cut(
    make_mlp, tmp_path, batches
):
    whole = [{"x": np.concatenate([batch["x"] for batch in batches])}]
    path = make_mlp()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pieces, together = ranked(path, tmp_path / "a", batches), ranked(path, tmp_path / "b", whole)
    assert [each.node for each in pieces] == [each.node for each in together]
    for one, other in zip(pieces, together, strict=True):
        assert one.noise == pytest.approx(other.noise, rel=1e-3)
        assert 1e-7 < one.noise < 1e-2  # 8 bits: some hundredths of a percent of the energy


def test_weights_that_8_bits_hold_exactly_and_inputs_too_make_no_error(make_onnx, tmp_path):
    weights = {"w": np.diag(np.full(8, 127.0)).astype(np.float32)}
    nodes = [("Gemm", ["x", "w"], ["y"], "exact", {})]
    rows = [{"x": np.tile(np.arange(0, 256, 32, dtype=np.float32), (4, 1))}]
    rows[0]["x"][0, 0] = 255
    found = ranked(make_onnx(nodes, weights, shape=[8], out=[8]), tmp_path, rows)
    assert found[0].noise < 1e-12
