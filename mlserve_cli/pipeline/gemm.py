"""How fast this CPU multiplies matrices in int8 and in float32, measured in half a second.

The int8 form is the one that quantize writes: unsigned activations, signed weights (u8s8). It is
the bare product: a whole model gains less, since not all of it is matrix products.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlserve_cli.runtime.tensors import Array

ROWS, INNER, COLUMNS = 128, 1024, 1024
"""The shape of a mid-sized layer: its weights (1 and 4 MB) stay in a server CPU's cache."""

SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class GemmSpeed:
    """The best of many interleaved runs on one thread, in 10⁹ operations a second.

    The best, not the median: what else runs on the machine slows some runs down, and the longer
    float32 runs more often, which would flatter int8.
    """

    fp32_gflops: float
    int8_gops: float
    rounds: int

    @property
    def ratio(self) -> float:
        """How many times as fast int8 is."""
        return self.int8_gops / self.fp32_gflops


def measure(seconds: float = SECONDS) -> GemmSpeed:
    """Run both products in turns for `seconds` through ONNX Runtime."""
    random = np.random.default_rng(0)
    float_weights = random.standard_normal((INNER, COLUMNS), dtype=np.float32)
    int_weights = random.integers(-127, 128, (INNER, COLUMNS), dtype=np.int8)
    runs: tuple[tuple[Any, Array], ...] = (
        (
            _session("MatMul", float_weights, np.float32),
            random.standard_normal((ROWS, INNER), dtype=np.float32),
        ),
        (
            _session("MatMulInteger", int_weights, np.uint8),
            random.integers(0, 256, (ROWS, INNER), dtype=np.uint8),
        ),
    )
    times: tuple[list[float], list[float]] = ([], [])
    for session, rows in runs:
        session.run(None, {"x": rows})  # the first run packs weights and wakes the CPU up
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for (session, rows), taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            session.run(None, {"x": rows})
            taken.append(time.perf_counter() - start)
    operations = 2 * ROWS * INNER * COLUMNS / 1e9
    fp32, int8 = (operations / min(taken) for taken in times)
    return GemmSpeed(fp32, int8, rounds=len(times[0]))


def _session(operator: str, weights: Array, dtype: type) -> Any:
    import onnx
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    out = onnx.TensorProto.FLOAT if dtype is np.float32 else onnx.TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        "gemm",
        [
            helper.make_tensor_value_info(
                "x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [ROWS, INNER]
            )
        ],
        [helper.make_tensor_value_info("y", out, [ROWS, COLUMNS])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
