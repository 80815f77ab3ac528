import numpy as np
import pytest

from mlserve_cli.errors import DataError, StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.quantize import StaticStep

ROWS = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


def quantize(parent, target, batches=None, **options):
    step = StaticStep(batches if batches is not None else [{"x": ROWS}], **options)
    return run(step, parent, target, progress=Silent())


def test_the_manifest_says_what_was_done(make_mlp, pack, tmp_path):
    parent = pack(make_mlp(), {"x": ROWS[:32]}, variant="pruned-fp32")
    manifest = quantize(parent, tmp_path / "int8").manifest
    assert manifest.variant == "pruned-int8-static"
    assert manifest.finite_inputs
    assert manifest.tolerance == 1e-2
    assert manifest.batch.invariant
    record = manifest.lineage[-1]
    assert record.step == "quantize-static"
    assert record.parent == parent.manifest.digest
    assert record.parameters["calibration_rows"] == 200


def test_the_same_model_and_data_give_the_same_bytes_and_digest(make_mlp, pack, tmp_path):
    parent = pack(make_mlp(), {"x": ROWS[:32]})
    one, two = (quantize(parent, tmp_path / name) for name in ("one", "two"))
    assert one.model.read_bytes() == two.model.read_bytes()
    assert one.manifest.digest == two.manifest.digest


def test_every_product_runs_as_an_int8_kernel_and_the_share_is_evidence(make_mlp, pack, tmp_path):
    made = quantize(pack(make_mlp(), {"x": ROWS[:32]}), tmp_path / "int8")
    (facts,) = made.evidence("int8-kernels")
    assert (facts["int8_nodes"], facts["float_nodes"], facts["int8_share"]) == (2, 0, 1.0)


def test_an_old_opset_is_converted_before_scales_per_channel_are_written(make_mlp, pack, tmp_path):
    import onnx

    parent = pack(make_mlp(opset=11), {"x": ROWS[:32]})
    made = quantize(parent, tmp_path / "int8")
    model = onnx.load(made.model)
    onnx.checker.check_model(model)
    (version,) = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    assert version >= 13
    assert difference(parent, made) < 0.05


def test_the_form_is_unsigned_activations_and_signed_weights_per_channel(make_mlp, pack, tmp_path):
    import onnx

    model = onnx.load(quantize(pack(make_mlp(), {"x": ROWS[:32]}), tmp_path / "int8").model)
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert arrays[node.input[2]].dtype == np.uint8
            assert arrays[node.input[1]].shape == ()
    assert arrays["w1_quantized"].dtype == np.int8
    assert arrays["w1_scale"].shape == (16,)
    assert not arrays["w1_zero_point"].any()


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Softmax", "Erf"])
def test_a_gemm_before_any_activation_runs_in_int8(make_onnx, pack, tmp_path, activation):
    rng = np.random.default_rng(5)
    nodes = [
        ("Gemm", ["x", "w", "b"], ["h"], "gemm", {}),
        (activation, ["h"], ["y"], "activation", {}),
    ]
    weights = {
        "w": rng.normal(size=(8, 4)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
    }
    parent = pack(make_onnx(nodes, weights, shape=[8], out=[4]), {"x": ROWS[:32]})
    made = quantize(parent, tmp_path / "int8")
    (facts,) = made.evidence("int8-kernels")
    assert (facts["int8_nodes"], facts["float_nodes"]) == (1, 0)
    assert difference(parent, made) < 0.05


def test_a_mobile_network_stays_in_int8_from_its_first_convolution_to_its_last(
    make_onnx, pack, tmp_path
):
    """Depthwise convolutions, Clip, pools, a Concat and a Flatten, all between int8 kernels."""
    rng = np.random.default_rng(6)
    pad = {"pads": [1, 1, 1, 1]}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        ("Conv", ["x", "w1"], ["a"], "stem", pad),
        ("Clip", ["a", "low", "high"], ["b"], "clip1", {}),
        ("Conv", ["b", "w2"], ["c"], "depthwise", pad | {"group": 8}),
        ("Clip", ["c", "low", "high"], ["d"], "clip2", {}),
        ("Concat", ["b", "d"], ["e"], "concat", {"axis": 1}),
        ("MaxPool", ["e"], ["f"], "maxpool", pool),
        ("Conv", ["f", "w3"], ["g"], "project", {}),
        ("AveragePool", ["g"], ["h"], "avgpool", pool),
        ("Flatten", ["h"], ["i"], "flatten", {}),
        ("Gemm", ["i", "w4", "b4"], ["y"], "head", {}),
    ]
    weights = {
        "w1": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        # Channels of very different size, as training leaves them in depthwise convolutions.
        "w2": (rng.normal(size=(8, 1, 3, 3)) * np.logspace(-2, 1, 8).reshape(-1, 1, 1, 1)).astype(
            np.float32
        ),
        "w3": rng.normal(size=(4, 16, 1, 1)).astype(np.float32),
        "w4": rng.normal(size=(16, 5)).astype(np.float32),
        "b4": rng.normal(size=5).astype(np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
    }
    images = rng.normal(size=(64, 3, 8, 8)).astype(np.float32)
    parent = pack(make_onnx(nodes, weights, shape=[3, 8, 8], out=[5]), {"x": images})
    made = quantize(parent, tmp_path / "int8", [{"x": images}])
    (facts,) = made.evidence("int8-kernels")
    assert (facts["int8_nodes"], facts["float_nodes"]) == (4, 0)
    assert facts["nodes"]["QuantizeLinear"] == 1  # the way in; the way out is the head's own
    assert {"DequantizeLinear", "Clip"}.isdisjoint(facts["nodes"])
    assert difference(parent, made, images) < 0.05


def test_a_residual_that_is_added_in_float_is_not_rounded(make_onnx, pack, tmp_path):
    """The product reads int8, the Add beside it the float that was there before."""
    import onnx

    rng = np.random.default_rng(7)
    nodes = [
        ("Tanh", ["x"], ["t"], "tanh", {}),
        ("MatMul", ["t", "w"], ["p"], "product", {}),
        ("Add", ["p", "t"], ["y"], "residual", {}),
    ]
    weights = {"w": rng.normal(size=(8, 8)).astype(np.float32)}
    rows = {"x": ROWS.reshape(-1, 4, 8)}  # of two dimensions they would become one Gemm
    parent = pack(make_onnx(nodes, weights, shape=[4, 8], out=[4, 8]), rows)
    model = onnx.load(quantize(parent, tmp_path / "int8", [rows]).model)
    (add,) = [node for node in model.graph.node if node.op_type == "Add"]
    (product,) = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert "t" in add.input
    assert "t" not in product.input


def test_an_excluded_node_stays_in_float(make_mlp, pack, tmp_path):
    made = quantize(pack(make_mlp(), {"x": ROWS[:32]}), tmp_path / "int8", exclude=["last"])
    (facts,) = made.evidence("int8-kernels")
    assert (facts["int8_nodes"], facts["float_nodes"]) == (1, 1)
    assert made.manifest.lineage[-1].parameters["exclude"] == ["last"]


def test_a_failure_leaves_no_package_and_no_temporary_folder(make_mlp, pack, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    parent = pack(make_mlp(), {"x": ROWS[:32]})
    broken = np.full((4, 8), np.nan, np.float32)
    with pytest.raises(DataError):
        quantize(parent, tmp_path / "out" / "int8", [{"x": broken}])
    assert list((tmp_path / "out").iterdir()) == []
    quantize(parent, tmp_path / "out" / "int8")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["int8"]
    assert list(scratch.iterdir()) == []


def test_a_tensor_that_8_bits_cannot_cover_is_an_error_that_names_it(make_onnx, pack, tmp_path):
    nodes = [
        ("Mul", ["x", "huge"], ["overflow"], "mul", {}),
        ("MatMul", ["overflow", "w"], ["y"], "product", {}),
    ]
    weights = {"huge": np.array(1e35, np.float32), "w": np.full((8, 2), 1e-35, np.float32)}
    parent = pack(make_onnx(nodes, weights, shape=[8], out=[2]), {"x": ROWS[:8]})
    with pytest.raises(StepError, match="tensor 'overflow' ranges from -"):
        quantize(parent, tmp_path / "int8")


def test_nothing_is_printed_or_logged(make_mlp, pack, tmp_path, capfd, caplog):
    quantize(pack(make_mlp(), {"x": ROWS[:32]}), tmp_path / "int8")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def difference(parent, made, rows=ROWS) -> float:
    """Root mean square of the difference, relative to the spread of the float outputs."""
    outputs = []
    for package in (parent, made):
        engine = package.engine()
        outputs.append(engine.run({"x": rows})["y"])
        engine.close()
    expected, found = outputs
    return float(np.sqrt(np.mean((expected - found) ** 2)) / expected.std())
