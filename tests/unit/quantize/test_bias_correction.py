# ruff: noqa: TID253
import numpy as np
import onnx
import pytest

from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import Choices, static
from mlserve_cli.quantize.calibration.rows import gather
from mlserve_cli.quantize.prepare import prepare
from mlserve_cli.quantize.weights import rounded
from mlserve_cli.runtime.tensors import TensorSpec

RANDOM = np.random.default_rng(9)


def answers(model, rows):
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})[0]


@pytest.fixture
def quantized(tmp_path):
    """Quantize a model file with and without correction: (float, plain, corrected)."""

    def run(path, rows, **choices):
        model = onnx.load(prepare(path, tmp_path))
        spec = TensorSpec("x", "FP32", ("batch", *rows.shape[1:]))
        kept = gather([{"x": rows}], tmp_path / "rows", inputs=(spec,), progress=Silent())
        plain = static.quantize(model, kept, Choices(**choices))
        corrected = static.quantize(model, kept, Choices(bias_correction=True, **choices))
        return model, plain, corrected

    return run


def offset(model, made, rows):
    """The largest mean error of a channel (axis 1, or the last of two), in its deviations."""
    exact, found = answers(model, rows), answers(made.model, rows)
    axes = tuple(axis for axis in range(exact.ndim) if axis != 1)
    return float(np.abs((exact - found).mean(axis=axes)).max() / exact.std())


# One huge weight a channel makes the steps of the others coarse; a mean makes their errors add up.
CONV = RANDOM.normal(size=(6, 4, 3, 3)).astype(np.float32)
CONV[:, 0, 0, 0] = 60
GEMM = RANDOM.normal(size=(12, 5)).astype(np.float32)
GEMM[0] = 60
PICTURES = (2 + RANDOM.normal(size=(64, 4, 8, 8))).astype(np.float32)
PICTURES[:, 0] *= 0.01
ROWS = (2 + RANDOM.normal(size=(256, 12))).astype(np.float32)
ROWS[:, 0] *= 0.01


@pytest.mark.parametrize(
    ("node", "weight", "rows", "out"),
    [
        (("Conv", ["x", "w"], ["h"], "it", {"pads": [1, 1, 1, 1]}), CONV, PICTURES, [6, 8, 8]),
        (("Gemm", ["x", "w"], ["h"], "it", {}), GEMM, ROWS, [5]),
        (("Gemm", ["x", "w"], ["h"], "it", {"transB": 1}), GEMM.T.copy(), ROWS, [5]),
    ],
)
def test_the_mean_error_of_each_channel_goes_away(make_onnx, quantized, node, weight, rows, out):
    nodes = [node, ("Tanh", ["h"], ["t"], "t", {}), ("Neg", ["h"], ["y"], "end", {})]
    path = make_onnx(nodes, {"w": weight}, shape=list(rows.shape[1:]), out=out)
    model, plain, corrected = quantized(path, rows)
    assert [item.node for item in corrected.corrected] == ["it"]
    assert offset(model, corrected, rows) < offset(model, plain, rows) / 3


def test_a_matmul_is_corrected_in_the_add_behind_it(make_onnx, quantized):
    nodes = [
        ("MatMul", ["x", "w"], ["h"], "product", {}),
        ("Add", ["b", "h"], ["s"], "bias", {}),
        ("Erf", ["s"], ["e"], "erf", {}),
        ("MatMul", ["e", "v"], ["y"], "bare", {}),
    ]
    held = {"w": GEMM, "b": np.ones(5, np.float32), "v": np.eye(5, dtype=np.float32)}
    rows = np.repeat(ROWS[:, None], 3, axis=1)
    path = make_onnx(nodes, held, shape=[3, 12], out=[3, 5])
    _, _, corrected = quantized(path, rows)
    assert len(corrected.corrected) == 1  # the second has no bias that could take it


def test_the_shared_bias_of_two_layers_is_not_changed_for_both(make_onnx, quantized):
    nodes = [
        ("Gemm", ["x", "w", "b"], ["p"], "one", {}),
        ("Gemm", ["x", "v", "b"], ["q"], "two", {}),
        ("Sub", ["p", "q"], ["y"], "end", {}),
    ]
    held = {"w": GEMM, "v": GEMM[::-1].copy(), "b": np.ones(5, np.float32)}
    model, plain, corrected = quantized(make_onnx(nodes, held, shape=[12], out=[5]), ROWS)
    assert len(corrected.corrected) == 2
    assert offset(model, corrected, ROWS) < offset(model, plain, ROWS) / 2


@pytest.mark.parametrize("reduce_range", [False, True])
def test_weights_are_rounded_here_as_the_writer_rounds_them(make_mlp, quantized, reduce_range):
    from onnx import numpy_helper

    model, plain, _ = quantized(make_mlp(), ROWS[:, :8], reduce_range=reduce_range)
    float_weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    written = {i.name: numpy_helper.to_array(i) for i in plain.model.graph.initializer}
    for name in ("w1", "w2"):
        restored = written[name + "_quantized"].astype(np.float64) * written[name + "_scale"]
        mine = rounded(float_weights[name], 1, reduce_range=reduce_range)
        np.testing.assert_allclose(mine, restored, rtol=1e-5)
        assert np.abs(written[name + "_quantized"].astype(int)).max() == (
            64 if reduce_range else 127
        )
