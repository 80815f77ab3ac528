# ruff: noqa: TID253
import numpy as np
import onnx
import pytest

from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import Choices, static
from mlserve_cli.quantize.calibration.rows import gather
from mlserve_cli.quantize.prepare import prepare
from mlserve_cli.quantize.smooth import smooth
from mlserve_cli.runtime.tensors import TensorSpec

WIDTH = 32
RANDOM = np.random.default_rng(5)
ROWS = RANDOM.normal(size=(64, 6, WIDTH)).astype(np.float32)


def loud():
    """The scale of a LayerNormalization with two channels a hundred times as large as the rest."""
    scale = np.ones(WIDTH, np.float32)
    scale[[3, 17]] = 100
    return scale


def weights(**more):
    made = {
        "g": loud(),
        "c": RANDOM.normal(size=WIDTH).astype(np.float32),
        "w1": RANDOM.normal(size=(WIDTH, 24)).astype(np.float32) / 6,
        "w2": RANDOM.normal(size=(WIDTH, 24)).astype(np.float32) / 6,
    }
    return made | more


NORM = ("LayerNormalization", ["x", "g", "c"], ["n"], "norm", {})
TWO = [
    ("MatMul", ["n", "w1"], ["q"], "query", {}),
    ("MatMul", ["n", "w2"], ["k"], "key", {}),
    ("Add", ["q", "k"], ["s"], "sum", {}),
    ("Tanh", ["s"], ["y"], "end", {}),
]


@pytest.fixture
def smoothed(make_onnx, tmp_path):
    """Smooth a graph; return the float model, the smoothed one, and what was done."""

    def run(nodes, held, names=("query", "key"), out=24, rows=ROWS):
        path = make_onnx(nodes, held, shape=[6, WIDTH], out=[6, out])
        model = onnx.load(prepare(path, tmp_path))
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        spec = TensorSpec("x", "FP32", ("batch", 6, WIDTH))
        kept = gather([{"x": rows}], tmp_path / "rows", inputs=(spec,), progress=Silent())
        return model, changed, smooth(changed, names, kept, tmp_path), kept

    return run


def answers(model, rows=ROWS):
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})[0]


def test_the_factor_goes_into_the_normalization_before_and_nothing_is_added(smoothed):
    before, after, (done,), _ = smoothed([NORM, *TWO], weights())
    assert done.nodes == ("query", "key")
    assert done.folded == "norm"
    assert done.after < done.before / 4
    assert [node.op_type for node in after.graph.node] == [
        node.op_type for node in before.graph.node
    ]
    np.testing.assert_allclose(answers(after), answers(before), atol=1e-4)


def test_the_factor_goes_into_a_mul_before(smoothed):
    nodes = [("Mul", ["x", "g"], ["n"], "gain", {}), *TWO]
    before, after, (done,), _ = smoothed(nodes, weights())
    assert done.folded == "gain"
    np.testing.assert_allclose(answers(after), answers(before), atol=1e-4)


def test_a_mul_is_inserted_where_others_read_the_tensor(smoothed):
    nodes = [
        NORM,
        *TWO[:3],
        ("MatMul", ["s", "w3"], ["z"], "out", {}),
        ("Add", ["z", "n"], ["y"], "residual", {}),
    ]
    held = weights(w3=RANDOM.normal(size=(24, WIDTH)).astype(np.float32))
    before, after, (done,), kept = smoothed(nodes, held, out=WIDTH)
    assert done.folded == ""
    assert sum(node.op_type == "Mul" for node in after.graph.node) == 1
    onnx.checker.check_model(after)
    written = static.quantize(before, kept, Choices(smooth=True)).model
    assert np.mean(np.abs(answers(written) - answers(before))) < 0.05 * answers(before).std()
    np.testing.assert_allclose(answers(after), answers(before), rtol=1e-4, atol=1e-2)


def test_a_weight_that_others_share_stays_for_them(smoothed):
    nodes = [
        NORM,
        ("MatMul", ["n", "w1"], ["q"], "query", {}),
        ("MatMul", ["x", "w1"], ["k"], "other", {}),
        *TWO[2:],
    ]
    before, after, done, _ = smoothed(nodes, weights(), names=("query",))
    assert len(done) == 1
    np.testing.assert_allclose(answers(after), answers(before), atol=1e-4)


def test_nothing_is_changed_where_nothing_is_gained(smoothed):
    held = weights(g=np.ones(WIDTH, np.float32))
    nodes = [
        ("Mul", ["x", "g"], ["n"], "gain", {}),
        *TWO,
    ]
    nodes[-1] = ("Add", ["s", "q"], ["y"], "end", {})
    nodes.insert(1, ("Identity", ["n"], ["m"], "same", {}))
    before, after, done, _ = smoothed(nodes, held, rows=np.sign(ROWS))
    assert done == []
    assert after.SerializeToString() == before.SerializeToString()


def test_outliers_cost_int8_less_when_smoothed(smoothed):
    before, _, _, kept = smoothed([NORM, *TWO], weights())
    exact = answers(before)
    plain, better = (
        np.mean((answers(static.quantize(before, kept, Choices(smooth=each)).model) - exact) ** 2)
        for each in (False, True)
    )
    assert better < plain / 3


def test_a_gemm_with_a_transposed_weight_is_smoothed_along_its_inputs(make_onnx, tmp_path):
    held = {"g": loud(), "w": RANDOM.normal(size=(5, WIDTH)).astype(np.float32)}
    nodes = [
        ("Mul", ["x", "g"], ["n"], "gain", {}),
        ("Gemm", ["n", "w"], ["y"], "head", {"transB": 1}),
    ]
    model = onnx.load(prepare(make_onnx(nodes, held, shape=[WIDTH], out=[5]), tmp_path))
    rows = ROWS[:, 0]
    spec = TensorSpec("x", "FP32", ("batch", WIDTH))
    kept = gather([{"x": rows}], tmp_path / "rows", inputs=(spec,), progress=Silent())
    expected = answers(model, rows)
    (done,) = smooth(model, ("head",), kept, tmp_path)
    assert done.folded == "gain"
    np.testing.assert_allclose(answers(model, rows), expected, rtol=1e-4, atol=1e-2)
