# ruff: noqa: TID253
"""Where the time of an int8 model goes: `python benchmarks/optimize/shares.py FILE.onnx…`.

First how fast products run in float32 and in int8 on this machine: their ratio is all that int8 can
win. Then, for each file, the share of every operator in ONNX Runtime's own profile: what is no
product wins nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort

from mlserve_cli.explain import nodes
from mlserve_cli.graph import kernels

THREADS = len(os.sched_getaffinity(0))
SIDE = 1024  # of the square products that are timed: three of them fill no more than 12 MB


def feed(path: Path, batch: int) -> dict[str, np.ndarray]:
    """Rows of zeros; what lies in a tensor changes no time here."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    return {
        item.name: np.zeros(
            [batch, *(n if isinstance(n, int) else 128 for n in item.shape[1:])], kinds[item.type]
        )
        for item in session.get_inputs()
    }


def rate(*, int8: bool) -> float:
    """Billions of operations a second of one square product in ONNX Runtime."""
    from onnx import TensorProto, helper, numpy_helper

    kinds = (TensorProto.UINT8, TensorProto.INT32) if int8 else (TensorProto.FLOAT,) * 2
    weight = np.random.default_rng(0).integers(-127, 127, (SIDE, SIDE))
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if int8 else "MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kinds[0], [SIDE, SIDE])],
        [helper.make_tensor_value_info("y", kinds[1], [SIDE, SIDE])],
        [numpy_helper.from_array(weight.astype(np.int8 if int8 else np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = THREADS
    session = ort.InferenceSession(
        made.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    x = np.ones((SIDE, SIDE), np.uint8 if int8 else np.float32)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        session.run(None, {"x": x})
        times.append(time.perf_counter() - start)
    return 2 * SIDE**3 / statistics.median(times) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.onnx")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    exact, rounded = rate(int8=False), rate(int8=True)
    print(
        f"products of {SIDE} × {SIDE}, {THREADS} threads: float32 {exact:,.0f} GFLOPS, "
        f"u8 by s8 {rounded:,.0f} GOPS, {rounded / exact:.1f} times as fast"
    )
    for path in given.files:
        found = nodes.profile(path, feed(path, given.batch), runs=given.runs, threads=THREADS)
        spent: Counter[str] = Counter()
        for node in found.nodes:
            spent[node.operator] += node.microseconds
        products = sum(micros for name, micros in spent.items() if name in kernels.INT8)
        print(f"\n{path}, batch {given.batch}: {found.total_us / 1e3:.1f} ms")
        print(f"  {products / found.total_us:6.1%}  all int8 products")
        for name, micros in spent.most_common(8):
            print(f"  {micros / found.total_us:6.1%}  {name}")


if __name__ == "__main__":
    main()
