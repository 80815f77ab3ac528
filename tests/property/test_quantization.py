"""The laws of quantization: no written weight is further from the float one than half a step."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.prepare import prepare
from mlserve_cli.quantize.selection import select
from mlserve_cli.quantize.static import write

weights = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-100, 100, width=32),
)


def _model(path, matrix):
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", matrix.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", matrix.shape[1]])],
        [numpy_helper.from_array(matrix, "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    matrix=weights,
    low=st.floats(-50, 0, width=32),
    high=st.floats(np.float32(0.01), 50, width=32),
)
def test_a_written_weight_is_within_half_a_step_of_the_float_one(matrix, low, high, tmp_path):
    from onnx import load, numpy_helper

    path = tmp_path / "model.onnx"
    _model(path, matrix)
    prepared = load(prepare(path, tmp_path))
    selection = select(prepared)
    written = write(prepared, selection, {"x": Range(low, high)})
    arrays = {item.name: numpy_helper.to_array(item) for item in written.graph.initializer}
    scale = arrays["w_scale"].astype(np.float64)
    restored = arrays["w_quantized"].astype(np.float64) * scale
    assert np.all(np.abs(restored - matrix) <= scale / 2 * (1 + 1e-5))
    # The range of the activation is covered, zero exactly: padding must not become a number.
    step, zero = float(arrays["x_scale"]), int(arrays["x_zero_point"])
    assert (0 - zero) * step <= low + step / 2 + 1e-6
    assert (255 - zero) * step >= high - step / 2 - 1e-6
