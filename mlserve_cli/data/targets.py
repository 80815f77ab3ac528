"""What the model should have answered: where it stands in a row, and how it becomes numbers."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlserve_cli.errors import DataError
from mlserve_cli.runtime.tensors import Array

NAMES = ("target", "targets", "label", "labels", "y")
"""Names under which a column or an array is taken as the targets, in this order."""


def find(names: Iterable[str], wanted: str | None, *, where: str) -> str | None:
    """The one of `names` that holds the targets, or None. Raises `DataError` if `wanted` is not
    among them."""
    names = list(names)
    if wanted is not None:
        if wanted not in names:
            raise missing(wanted, names, where=where, what="target")
        return wanted
    return next((name for name in NAMES if name in names), None)


def missing(name: str, there: Sequence[str], *, where: str, what: str = "column") -> DataError:
    """The error for a column that is not there: what is, and what was perhaps meant."""
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
    shown = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
    hint = f"there {'is' if len(there) == 1 else 'are'} {shown or 'none'}"
    if near:
        hint = f"did you mean '{near[0]}'? {hint}"
    return DataError(f"{where} has no {what} '{name}'.", hint=hint)


def to_array(
    values: Sequence[Any], labels: Sequence[str], *, where: str, numbers: Sequence[int]
) -> Array:
    """Targets of some rows → an array of one value, or one list, a row.

    Names of `labels` become their numbers. `numbers` are the rows' own, for errors. Raises
    `DataError` for a missing target and for a name that is no label.
    """
    for value, number in zip(values, numbers, strict=True):
        if value is None or value == "":
            raise DataError(f"{where}, row {number} has no target.")
    if labels:
        known = {label: index for index, label in enumerate(labels)}
        found = [
            _class(value, known, where=where, number=number)
            for value, number in zip(values, numbers, strict=True)
        ]
        return np.array(found, dtype=np.int64)
    if any(isinstance(value, list) for value in values):
        try:
            return np.array(values, dtype=np.float64)
        except ValueError as error:
            raise DataError(
                f"{where}, rows {numbers[0]} to {numbers[-1]}: the targets are no lists of numbers "
                "of one length."
            ) from error
    parsed = [_number(value) for value in values]
    if any(value is None for value in parsed):
        text = np.empty(len(values), dtype=np.object_)
        text[:] = [str(value).encode() for value in values]
        return text
    if all(isinstance(value, int) for value in parsed):
        return np.array(parsed, dtype=np.int64)
    return np.array(parsed, dtype=np.float64)


def from_array(array: Array, labels: Sequence[str], *, where: str, first: int) -> Array:
    """Targets that are an array already: names become numbers, whole numbers int64."""
    if array.dtype.kind in "SUO":
        values = [item.decode() if isinstance(item, bytes) else str(item) for item in array.flat]
        numbers = range(first, first + len(values))
        return to_array(values, labels, where=where, numbers=numbers).reshape(array.shape)
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    return array


def _class(value: Any, known: dict[str, int], *, where: str, number: int) -> int:
    name = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if name in known:
        return known[name]
    index = _number(value)
    if isinstance(index, float) and index.is_integer():
        index = int(index)
    if isinstance(index, int) and 0 <= index < len(known):
        return index
    shown = ", ".join(list(known)[:20]) + (" …" if len(known) > 20 else "")
    raise DataError(
        f"{where}, row {number}: the target '{name}' is no label.", hint=f"they are {shown}"
    )


def _number(value: Any) -> int | float | None:
    if isinstance(value, (bool, int, float)):
        return int(value) if isinstance(value, bool) else value
    try:
        return int(value)
    except (TypeError, ValueError):
        pass
    try:
        parsed = float(value)
    except (TypeError, ValueError):
        return None
    return parsed if math.isfinite(parsed) else None
