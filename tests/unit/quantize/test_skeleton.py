"""A graph whose weights lie in a file beside it answers as the whole does."""

import numpy as np

from mlserve_cli.quantize.calibration.skeleton import outsource


def test_large_weights_move_to_the_file_and_the_answers_stay(make_onnx, tmp_path):
    import onnx
    import onnxruntime as ort

    rng = np.random.default_rng(1)
    weights = {
        "w": rng.normal(size=(8, 300)).astype(np.float32),
        "v": rng.normal(size=(300, 2)).astype(np.float32),
        "b": rng.normal(size=2).astype(np.float32),
    }
    nodes = [
        ("MatMul", ["x", "w"], ["h"], "first", {}),
        ("Gemm", ["h", "v", "b"], ["y"], "last", {}),
    ]
    path = make_onnx(nodes, weights, shape=[8], out=[2])
    model = onnx.load(path)
    before = model.SerializeToString(deterministic=True)
    light = outsource(model, tmp_path / "weights")
    assert model.SerializeToString(deterministic=True) == before
    assert light.ByteSize() < 1000
    assert (tmp_path / "weights").stat().st_size == (8 * 300 + 300 * 2) * 4
    onnx.save(light, tmp_path / "light.onnx")

    def answer(file):
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": np.ones((3, 8), np.float32)})[0]

    assert np.array_equal(answer(tmp_path / "light.onnx"), answer(path))


def test_everything_else_of_a_model_is_kept(make_onnx, tmp_path):
    import onnx
    from onnx import helper

    weights = {"w": np.ones((8, 40), np.float32)}
    path = make_onnx([("MatMul", ["x", "w"], ["y"], "only", {})], weights, shape=[8], out=[40])
    model = onnx.load(path)
    helper.set_model_props(model, {"key": "value"})
    model.graph.value_info.append(helper.make_tensor_value_info("inner", 1, ["batch", 40]))
    light = outsource(model, tmp_path / "weights")
    onnx.save(light, tmp_path / "light.onnx")
    whole = onnx.load(tmp_path / "light.onnx")
    for item in whole.graph.initializer:
        item.ClearField("data_location")  # it is said of weights that were read from a file
    assert whole.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
