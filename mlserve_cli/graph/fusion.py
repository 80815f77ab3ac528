"""Attention as one operator: ONNX Runtime's own kernel in place of a dozen small nodes.

ONNX Runtime fuses normalizations and GELU by itself when it loads a file, and attention only in
the form in which an older exporter wrote it. Its operator is one that no other engine has, so a
fused file is for ONNX Runtime alone.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlserve_cli.errors import MlserveError
from mlserve_cli.graph import attention, clean, parity
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.tensors import Tensors

SLOWER = 1.1
"""Times as long as before is more than noise: then the plain graph stays."""

LEAST_ROUNDS = 10
BUDGET_S = 5.0
QUICK_S = 1.0

NOISE = 1.02
"""Two loads of the same file differ by as much."""
ROWS = 8


def apply(path: Path, batches: Sequence[Tensors], *, tolerance: float = parity.TOLERANCE) -> int:
    """Fuse the attention of the ONNX file at `path` in place; say how many operators it became.

    `batches` are rows of several sizes (lengths of text, for one): on each of them, at batch 1, 2
    and 7, the fused graph must answer as the plain one within `tolerance`, and take no longer.
    Where it does not, or there is no attention, the file stays as it is and the answer is 0.
    """
    import onnx

    model = onnx.load(path)
    if model.ByteSize() > clean.LIMIT_BYTES:
        return 0
    count = attention.fuse(model)
    if not count:
        return 0
    beside = path.with_name(f".{path.name}.fused")
    try:
        clean.save(model, beside)
        if not agrees(path, beside, batches, tolerance=tolerance, slower=SLOWER):
            return 0
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return count


def agrees(
    plain_file: Path,
    fused_file: Path,
    batches: Sequence[Tensors],
    *,
    tolerance: float,
    share: float = 0.0,
    slower: float | None = None,
) -> bool:
    """Whether the fused graph answers as the plain one at batch 1, 2 and 7.

    share: of the rows that may be answered otherwise. slower: how many times as long it may take.
    """
    with contextlib.ExitStack() as stack:
        try:
            plain = stack.enter_context(contextlib.closing(engines.load("onnxruntime", plain_file)))
            fused = stack.enter_context(contextlib.closing(engines.load("onnxruntime", fused_file)))
            for batch in batches:
                compared = parity.compare(plain.run, fused, batch, tolerance=tolerance)
                parity.check(compared, share=share)
        except MlserveError:
            return False
        some = [{name: array[:ROWS] for name, array in batch.items()} for batch in batches]
        return slower is None or ratio(plain, fused, some) <= slower


def is_quick(plain_file: Path, fused_file: Path, batches: Sequence[Tensors]) -> bool:
    """Whether the fused graph takes no longer, by the mean of its ratios to the plain one.

    Each batch counts as much as any other: a small one is what a lone request waits for.
    """
    with contextlib.ExitStack() as stack:
        plain, fused = (
            stack.enter_context(contextlib.closing(engines.load("onnxruntime", file)))
            for file in (plain_file, fused_file)
        )
        ratios = [ratio(plain, fused, [batch], budget_s=QUICK_S) for batch in batches]
    return statistics.geometric_mean(ratios) <= NOISE


def ratio(
    plain: Engine, fused: Engine, batches: Sequence[Tensors], *, budget_s: float = BUDGET_S
) -> float:
    """How long the fused graph takes for all batches, relative to the plain one.

    Each runs beside the other, and the best of several rounds counts: what else the machine does
    only ever adds to a time. It ends as soon as the fused graph was as quick, or when `budget_s` is
    over.
    """
    some = [
        {name: np.ascontiguousarray(array) for name, array in batch.items()} for batch in batches
    ]
    best = [[float("inf")] * len(some), [float("inf")] * len(some)]
    end = time.perf_counter() + budget_s
    rounds = 0
    while True:
        for number, batch in enumerate(some):
            for side, engine in enumerate((plain, fused)):
                began = time.perf_counter()
                engine.run(batch)
                best[side][number] = min(best[side][number], time.perf_counter() - began)
        rounds += 1
        found = sum(best[1]) / sum(best[0])
        if rounds >= LEAST_ROUNDS and (found <= 1.0 or time.perf_counter() > end):
            return found
