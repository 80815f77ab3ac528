"""Golden predictions: a few real rows and what the model answers, kept in `serve/golden.npz`.

A server proves a model with them before it takes traffic, bench and the sizing measure with them,
and every later step starts from the same rows. Text is stored as fixed-width bytes, so nothing is
ever unpickled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlserve_cli.runtime.golden import FILE, Golden, relative_difference
from mlserve_cli.runtime.tensors import Array, Tensors, rows

__all__ = ["FILE", "LIMIT_BYTES", "LIMIT_ROWS", "Golden", "choose", "relative_difference", "write"]

LIMIT_ROWS = 32
LIMIT_BYTES = 4 << 20  # a package should not grow by more than this for its proof


def choose(tensors: Tensors) -> Tensors:
    """The first rows, at most `LIMIT_ROWS` of them and about `LIMIT_BYTES`, but at least one."""
    count = rows(tensors)
    if len({len(array) if array.ndim else 0 for array in tensors.values()}) > 1:
        return tensors  # one request, whole: it can't be cut into rows
    row_bytes = sum(array.nbytes for array in tensors.values()) / count
    keep = max(1, min(count, LIMIT_ROWS, int(LIMIT_BYTES / max(row_bytes, 1))))
    return {name: array[:keep] for name, array in tensors.items()}


def write(folder: Path, golden: Golden) -> None:
    """Write `folder/golden.npz`; the same predictions give the same bytes."""
    arrays = {}
    for prefix, tensors in (("input", golden.inputs), ("output", golden.outputs)):
        for name, array in tensors.items():
            arrays[f"{prefix}.{name}"] = _plain(array)
    np.savez(folder / FILE, allow_pickle=False, **arrays)


def _plain(array: Array) -> Array:
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).reshape(array.shape)  # which makes a scalar a row
    # NumPy drops trailing zero bytes of fixed-width strings; a marker at the end keeps them.
    return np.array([item + b"." for item in array.flat], dtype=np.bytes_).reshape(array.shape)
