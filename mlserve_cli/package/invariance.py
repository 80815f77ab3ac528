"""Batch-invariance: is a row's answer the same alone and beside any neighbours?

Dynamic int8, for one, shares an activation scale over the whole batch, so one outlier ruins the
answers of the others. A server may put strangers' requests into one batch only where that was
tried and cannot happen.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve_cli.errors import first_line
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.golden import relative_difference
from mlserve_cli.runtime.manifest import BatchProof
from mlserve_cli.runtime.tensors import Array, Tensors, rows

SIZES = (2, 7)
"""Beside 1; an even size and an odd one, which take different kernels."""

OUTLIER = 1e4
"""Times the largest real value: spoils a scale that is shared, and does not overflow."""


def prove(engine: Engine, real: Tensors, *, tolerance: float) -> BatchProof:
    """Run each of a few real rows alone, then beside real, outlier, NaN and zero rows.

    `tolerance` is relative to the output's range. Returns the proof, or the reason against it.
    """
    if not all(spec.has_batch for spec in (*engine.inputs, *engine.outputs)):
        return BatchProof(
            invariant=False, reason="the model has a fixed or missing batch dimension"
        )
    alone = [engine.run(_take(real, [row])) for row in range(min(rows(real), max(SIZES)))]
    for size in SIZES:
        for kind in ("real", "outlier", "nan", "zero"):
            for position in (0, size - 1):
                row = position % len(alone)
                batch = _beside(real, row=row, position=position, size=size, kind=kind)
                if batch is None:
                    continue
                try:
                    together = engine.run(batch)
                except Exception as error:
                    if kind == "real":
                        return BatchProof(
                            invariant=False,
                            reason=f"a batch of {size} fails: {first_line(error)}",
                        )
                    continue  # a neighbour that the model refuses fails its batch; bisection helps
                reason = _difference(alone[row], together, position, size, tolerance)
                if reason:
                    return BatchProof(
                        invariant=False, reason=f"beside {size - 1} {kind} rows {reason}"
                    )
    return BatchProof(invariant=True, tolerance=tolerance, sizes=(1, *SIZES))


def _take(tensors: Tensors, indices: list[int]) -> Tensors:
    return {name: np.ascontiguousarray(array[indices]) for name, array in tensors.items()}


def _beside(real: Tensors, *, row: int, position: int, size: int, kind: str) -> Tensors | None:
    count = rows(real)
    batch = _take(real, [(row + 1 + offset) % count for offset in range(size)])
    changed = kind == "real"
    for name, array in batch.items():
        if kind != "real" and array.dtype.kind == "f":
            array[...] = _neighbour(real[name], kind)
            changed = True
        array[position] = real[name][row]
    return batch if changed else None


def _neighbour(real: Array, kind: str) -> float:
    if kind == "nan":
        return float("nan")
    if kind == "zero":
        return 0.0
    largest = float(np.nanmax(np.abs(real), initial=1.0))
    return min(OUTLIER * largest, float(np.finfo(real.dtype).max) / 4)


def _difference(
    alone: Tensors, together: Tensors, position: int, size: int, tolerance: float
) -> str | None:
    for name, expected in alone.items():
        found: np.ndarray[Any, Any] = together[name]
        if found.ndim == 0 or found.shape[0] != size:
            return f"output '{name}' does not have {size} rows"
        difference = relative_difference(expected, found[position : position + 1])
        if difference > tolerance:
            return f"output '{name}' of a row differs by {difference:.1e} (relative)"
    return None
