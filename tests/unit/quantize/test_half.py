# ruff: noqa: TID253
import numpy as np
import onnx
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.quantize import HalfStep

ROWS = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)


def answers(package):
    engine = package.engine()
    found = engine.run({"x": ROWS})["y"]
    engine.close()
    return found


def test_clients_see_float32_and_the_weights_are_half_as_large(make_mlp, pack, tmp_path):
    parent = pack(make_mlp(), {"x": ROWS}, variant="pruned-fp32")
    made = run(HalfStep([{"x": ROWS}]), parent, tmp_path / "fp16", progress=Silent())
    assert made.manifest.variant == "pruned-fp16"
    assert made.manifest.inputs == parent.manifest.inputs
    assert [spec.datatype for spec in made.manifest.outputs] == ["FP32"]
    graph = onnx.load(made.model).graph
    assert {item.data_type for item in graph.initializer} == {onnx.TensorProto.FLOAT16}
    np.testing.assert_allclose(answers(made), answers(parent), rtol=0.02, atol=0.02)


def test_nodes_whose_values_leave_16_bits_stay_in_float32(make_onnx, pack, tmp_path):
    """Squares of thousands are millions; in 16 bits they would be infinite."""
    nodes = [
        ("Mul", ["x", "thousand"], ["h"], "grow", {}),
        ("Mul", ["h", "h"], ["s"], "square", {}),
        ("Sqrt", ["s"], ["r"], "root", {}),
        ("MatMul", ["r", "w"], ["y"], "product", {}),
    ]
    held = {"thousand": np.array(1000, np.float32), "w": np.eye(8, 3, dtype=np.float32)}
    parent = pack(make_onnx(nodes, held, shape=[8], out=[3]), {"x": ROWS})
    made = run(HalfStep(), parent, tmp_path / "fp16", progress=Silent())  # by its golden rows
    kept = made.manifest.lineage[-1].parameters["float32"]
    assert {"square", "root"} <= set(kept)
    assert "product" not in kept
    np.testing.assert_allclose(answers(made), answers(parent), rtol=0.01, atol=5)


def test_an_excluded_node_that_is_not_there_is_an_error(make_mlp, pack, tmp_path):
    with pytest.raises(StepError, match="'nowhere' cannot be excluded"):
        run(
            HalfStep(exclude=["nowhere"]),
            pack(make_mlp(), {"x": ROWS}),
            tmp_path / "fp16",
            progress=Silent(),
        )
