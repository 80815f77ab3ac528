"""The calibration rows, gone through once, checked, and kept on disk for the passes that follow.

A source may be a generator that ends, or a function that draws other rows each time. Ranges,
histograms and corrections must come from the same rows, so they are written down at the first
reading; memory holds one batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.errors import DataError
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.tensors import Array, Tensors, TensorSpec, check, fixed_batch, rows


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """Checked batches below `folder`, to be gone through as often as need be.

    count: rows. batches: how many files. digest: of the rows, however they came in batches.
    fixed: rows that the model takes at once, where it takes no other number.
    """

    folder: Path
    count: int
    batches: int
    digest: str
    fixed: int | None = None

    def __iter__(self) -> Iterator[Tensors]:
        for number in range(self.batches):
            with np.load(self.folder / f"{number}.npz", allow_pickle=False) as file:
                yield {key.partition(".")[2]: _restored(file[key]) for key in file.files}

    def parts(self, limit: int) -> Iterator[Tensors]:
        """The same rows, at most `limit` at a time; a model of fixed batch gets what it takes."""
        for batch in self:
            size = rows(batch)
            step = size if self.fixed else max(1, limit)
            for start in range(0, size, step):
                yield cut(batch, start, start + step)


def gather(
    batches: Iterable[Tensors], folder: Path, *, inputs: tuple[TensorSpec, ...], progress: Progress
) -> CalibrationRows:
    """Write `batches` below `folder`, checked against the signature `inputs`.

    Raises `DataError` for a batch that holds NaN or infinities or does not fit, and where there is
    no row at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fixed = fixed_batch(inputs)
    digest = _RowDigest()
    count = written = 0
    for batch in _regrouped(_checked(batches, inputs), fixed):
        digest.update(batch)
        arrays = {f"{kind(array)}.{name}": _plain(array) for name, array in batch.items()}
        np.savez(folder / f"{written}.npz", **arrays)  # type: ignore[arg-type]
        written += 1
        count += rows(batch)
        progress.advance(note=f"{count} rows")
    if not count:
        raise DataError(
            "the calibration data is empty."
            if fixed is None
            else f"the calibration data has fewer than the {fixed} rows that the model takes.",
            hint="a hundred real rows or more are needed to find the range of each tensor",
        )
    return CalibrationRows(folder, count, written, digest.hex(), fixed)


def cut(batch: Tensors, start: int, stop: int) -> Tensors:
    """Some of the rows of a batch."""
    return {name: array[start:stop] if array.ndim else array for name, array in batch.items()}


def kind(array: Array) -> str:
    """How a tensor is told apart in the file: text is stored with a mark at its end."""
    return "text" if array.dtype.kind == "O" else "plain"


def _plain(array: Array) -> Array:
    if array.dtype.kind != "O":
        return array
    # NumPy drops zero bytes from the end of text of fixed width; a mark keeps them.
    marked: Array = np.array([bytes(item) + b"\x01" for item in array.flat], dtype=np.bytes_)
    return marked.reshape(array.shape)


def _restored(array: Array) -> Array:
    if array.dtype.kind != "S":
        return array
    text: Array = np.empty(array.size, dtype=np.object_)
    text[:] = [bytes(item)[:-1] for item in array.flat]
    return text.reshape(array.shape)


def _checked(batches: Iterable[Tensors], inputs: tuple[TensorSpec, ...]) -> Iterator[Tensors]:
    # A model of fixed batch is given rows like any other; they are grouped afterwards.
    free = tuple(
        TensorSpec(spec.name, spec.datatype, ("batch", *spec.shape[1:])) if spec.shape else spec
        for spec in inputs
    )
    for number, batch in enumerate(batches, start=1):
        for name, array in batch.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = np.argwhere(~np.isfinite(array))[0]
                row = f", row {int(bad[0]) + 1} of it" if array.ndim else ""
                raise DataError(
                    f"calibration batch {number}{row}: input '{name}' holds {array[tuple(bad)]}.",
                    hint="a range cannot cover NaN or infinity: leave such rows out",
                )
        try:
            check(free, batch, model="calibration")
        except InvalidRequest as error:
            raise DataError(
                f"calibration batch {number} does not fit the model: {error.message}",
                hint=error.hint,
            ) from error
        yield batch


def _regrouped(batches: Iterator[Tensors], fixed: int | None) -> Iterator[Tensors]:
    """Batches of exactly `fixed` rows; what is left over at the end is dropped."""
    if fixed is None:
        yield from batches
        return
    held: Tensors = {}
    for batch in batches:
        held = (
            {
                name: np.concatenate([held[name], array]) if array.ndim else array
                for name, array in batch.items()
            }
            if held
            else batch
        )
        while rows(held) >= fixed:
            yield cut(held, 0, fixed)
            held = cut(held, fixed, rows(held))


class _RowDigest:
    """SHA-256 of rows; the same rows in other batches have the same."""

    def __init__(self) -> None:
        self._inputs: dict[str, Any] = {}

    def update(self, batch: Tensors) -> None:
        for name, array in batch.items():
            digest = self._inputs.setdefault(name, hashlib.sha256())
            for row in array if array.ndim else [array]:
                digest.update(f"{array.dtype.str}{np.shape(row)}".encode())
                if array.dtype.kind == "O":
                    items: list[Any] = np.asarray(row, dtype=np.object_).ravel().tolist()
                    for item in items:
                        digest.update(len(item).to_bytes(8, "little") + bytes(item))
                else:
                    digest.update(np.ascontiguousarray(row).tobytes())

    def hex(self) -> str:
        whole = hashlib.sha256()
        for name in sorted(self._inputs):
            whole.update(name.encode() + b"\0" + self._inputs[name].digest())
        return whole.hexdigest()
