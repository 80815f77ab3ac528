"""Attention as one operator: ONNX Runtime's own kernels in place of a dozen small nodes.

ONNX Runtime fuses normalizations and GELU by itself when it loads a file, and attention only in
the form in which an older exporter wrote it. onnxscript's rules know the form of today's. What they
make are operators that no other engine has, so a fused file is for ONNX Runtime alone.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlserve_cli.errors import MlserveError
from mlserve_cli.graph import clean, parity
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    import onnx

_ATTENTION = ("Attention", "MultiHeadAttention", "GroupQueryAttention")

SLOWER = 1.1
"""Times as long as before is more than noise: then the plain graph stays."""

LEAST_ROUNDS = 10
BUDGET_S = 5.0
ROWS = 8


def apply(
    path: Path,
    batches: Sequence[Tensors],
    *,
    traced: onnx.ModelProto | None = None,
    tolerance: float = parity.TOLERANCE,
) -> int:
    """Fuse the attention of the ONNX file at `path` in place; say how many operators it became.

    `batches` are rows of several sizes (lengths of text, for one): on each of them, at batch 1, 2
    and 7, the fused graph must answer as the plain one within `tolerance`, and take no longer.
    Where it does not, or there is no attention, or onnxscript is not installed, the file stays as
    it is and the answer is 0. `traced` is the same graph with the shapes of its inner values, which
    the rules look at; without it they are inferred, as far as ONNX Runtime's inference goes.
    """
    import onnx

    model = onnx.load(path)
    operators = {node.op_type for node in model.graph.node}
    if not {"Softmax", "MatMul"} <= operators or model.ByteSize() > clean.LIMIT_BYTES:
        return 0
    fused = _fused(model, traced)
    if fused is None:
        return 0
    beside = path.with_name(f".{path.name}.fused")
    try:
        clean.save(fused, beside)
        if not _as_good(path, beside, batches, tolerance):
            return 0
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return _count(fused)


def _count(model: onnx.ModelProto) -> int:
    return sum(
        node.domain == "com.microsoft" and node.op_type in _ATTENTION for node in model.graph.node
    )


def _fused(model: onnx.ModelProto, traced: onnx.ModelProto | None) -> onnx.ModelProto | None:
    """The model with fused attention; None where nothing was fused."""
    try:
        import onnx_ir
        from onnxscript.rewriter.ort_fusions import optimize_for_ort
    except ImportError:
        return None
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        known = traced or _with_shapes(model)
        graph, _ = optimize_for_ort(onnx_ir.from_proto(known))
        fused: onnx.ModelProto = onnx_ir.to_proto(graph)
    except Exception:  # shape inference gives up on operators that it has not; nothing is lost
        return None
    if not _count(fused):
        return None
    # The signature is the plain graph's: inference may have renamed its sizes.
    for old, new in (
        (model.graph.input, fused.graph.input),
        (model.graph.output, fused.graph.output),
    ):
        if [value.name for value in old] != [value.name for value in new]:
            return None
        for before, after in zip(old, new, strict=True):
            after.CopyFrom(before)
    clean.strip(fused)
    return fused


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes of its inner values, as far as ONNX Runtime infers them.

    Its own `infer_shapes` writes a file into the working directory where it gives up; these are the
    steps inside it.
    """
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    inference = SymbolicShapeInference(
        2**31 - 1, auto_merge=True, guess_output_rank=False, verbose=0
    )
    inference._preprocess(model)
    while inference.run_:
        if not inference._infer_impl():
            break
    inference._update_output_from_vi()
    found: onnx.ModelProto = inference.out_mp_
    return found


def _as_good(
    plain_file: Path, fused_file: Path, batches: Sequence[Tensors], tolerance: float
) -> bool:
    with contextlib.ExitStack() as stack:
        try:
            plain = stack.enter_context(contextlib.closing(engines.load("onnxruntime", plain_file)))
            fused = stack.enter_context(contextlib.closing(engines.load("onnxruntime", fused_file)))
            for batch in batches:
                parity.check(parity.compare(plain.run, fused, batch, tolerance=tolerance))
            return _ratio(plain, fused, batches) <= SLOWER
        except MlserveError:
            return False


def _ratio(plain: Engine, fused: Engine, batches: Sequence[Tensors]) -> float:
    """How long the fused graph takes for all batches, relative to the plain one.

    Each runs beside the other, and the best of several rounds counts: what else the machine does
    only ever adds to a time. It ends as soon as the fused graph was as quick, or when `BUDGET_S` is
    over.
    """
    some = [
        {name: np.ascontiguousarray(array[:ROWS]) for name, array in batch.items()}
        for batch in batches
    ]
    best = [[float("inf")] * len(some), [float("inf")] * len(some)]
    end = time.perf_counter() + BUDGET_S
    rounds = 0
    while True:
        for number, batch in enumerate(some):
            for side, engine in enumerate((plain, fused)):
                began = time.perf_counter()
                engine.run(batch)
                best[side][number] = min(best[side][number], time.perf_counter() - began)
        rounds += 1
        ratio = sum(best[1]) / sum(best[0])
        if rounds >= LEAST_ROUNDS and (ratio <= 1.0 or time.perf_counter() > end):
            return ratio
