"""Golden predictions: real rows and the answers that the model gave when it was packaged."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import PackageError
from .tensors import Array, Tensors, rows

FILE = "golden.npz"


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs and outputs by name, with the same number of rows."""

    inputs: Tensors
    outputs: Tensors


def read(folder: Path) -> Golden:
    """Read `folder/golden.npz`. Raises `PackageError` when it is missing or damaged."""
    path = folder / FILE
    golden = Golden({}, {})
    try:
        with path.open("rb") as opened:
            _check_sizes(opened)
            with np.load(opened, allow_pickle=False) as file:
                for key in file.files:
                    prefix, _, name = key.partition(".")
                    side = golden.inputs if prefix == "input" else golden.outputs
                    side[name] = _restore(file[key])
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        AttributeError,
        MemoryError,  # an array's header may claim any shape
    ) as error:
        raise PackageError(f"'{path}' cannot be read: {error}.") from error
    if not golden.inputs or not golden.outputs:
        raise PackageError(f"'{path}' holds no predictions.")
    if not rows(golden.inputs):
        raise PackageError(f"'{path}' holds predictions of no rows.")
    return golden


def _check_sizes(opened: IO[bytes]) -> None:
    """Refuse members that unpack to more than is there: NumPy stored ours as they are.

    Raises `ValueError`, or `zipfile.BadZipFile` where it is no archive.
    """
    with zipfile.ZipFile(opened) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"'{member.filename}' in it is packed, and it must be stored")
    opened.seek(0)


def relative_difference(expected: Array, found: Array) -> float:
    """The largest difference, relative to the largest magnitude that was expected.

    Text and whole numbers differ by 0 or 1: the share of elements that are not equal. NaN equals
    NaN; a NaN on one side alone, or another shape, is an infinite difference.
    """
    if expected.shape != found.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    if expected.dtype.kind not in "fc":
        return float(np.mean(expected != found))
    expected = expected.astype(np.float64)
    found = found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(expected - found)
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    gap[same] = 0.0
    if not np.all(np.isfinite(gap)):
        return float("inf")
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max()) if finite.size else 1.0
    return float(gap.max() / max(scale, 1e-6))


def _restore(array: Array) -> Array:
    if array.dtype.kind != "S":
        return array
    raw: np.ndarray[Any, Any] = np.empty(array.size, dtype=np.object_)
    raw[:] = [bytes(item)[:-1] for item in array.flat]
    return raw.reshape(array.shape)
