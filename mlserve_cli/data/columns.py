"""Rows of a model that declares no processing: columns are inputs, or make up its one matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve_cli.data import targets
from mlserve_cli.data.reading import Reading
from mlserve_cli.errors import DataError
from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.tensors import Array, Tensors, TensorSpec

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class ColumnRows:
    """Where the file has a column for every input, those are taken, and others left out. Else, for
    a model of one matrix of numbers, all columns but the target go into it in their order."""

    def __init__(self, names: list[str], target: str | None, reading: Reading) -> None:
        self._specs = reading.manifest.inputs
        self._matrix: list[str] = []
        wanted = [spec.name for spec in self._specs]
        if all(name in names for name in wanted) and all(map(_one_a_row, self._specs)):
            self.taken = frozenset(wanted)
            return
        spec = self._specs[0]
        if len(wanted) > 1 or len(spec.shape) != 2 or spec.datatype == "BYTES":
            absent = next((name for name in wanted if name not in names), None)
            if absent is not None:
                raise targets.missing(absent, names, where=reading.name)
            raise DataError(
                f"the model's inputs are no single values, so {reading.name} cannot hold them.",
                hint="use .npz, or JSON Lines with nested lists by input name",
            )
        width = spec.shape[1]
        self._matrix = [name for name in names if name != target]
        if target is not None and reading.target is None and len(names) == width:
            self._matrix = names  # as wide as the model: that column is a feature after all
        self.taken = frozenset(self._matrix)
        if isinstance(width, int) and len(self._matrix) != width:
            raise DataError(
                f"{reading.name} has {len(self._matrix)} columns, and input '{spec.name}' takes "
                f"{width}.",
                hint=f"they are {', '.join(self._matrix[:20])}"
                + (f"; '{target}' is the target" if target else ""),
            )

    def tensors(self, values: list[Any]) -> Tensors:
        """Parse every cell. Raises `InvalidRequest` with row, column and value."""
        if self._matrix:
            spec = self._specs[0]
            table = [
                [_parse(row.get(name), spec, name, number) for name in self._matrix]
                for number, row in enumerate(values)
            ]
            return {spec.name: _array(table, spec)}
        found = {}
        for spec in self._specs:
            column = [
                _parse(row.get(spec.name), spec, spec.name, number)
                for number, row in enumerate(values)
            ]
            array = _array(column, spec)
            found[spec.name] = array.reshape(-1, 1) if len(spec.shape) == 2 else array
        return found


def _one_a_row(spec: TensorSpec) -> bool:
    """Whether a row of this input is a single value: (batch,) or (batch, 1)."""
    return len(spec.shape) == 1 or (
        len(spec.shape) == 2 and (spec.shape[1] == 1 or isinstance(spec.shape[1], str))
    )


def _parse(value: Any, spec: TensorSpec, column: str, row: int) -> Any:
    if spec.datatype == "BYTES":
        return str(value).encode() if value is not None else b""
    kind = spec.dtype.kind
    try:
        if kind == "b":
            return _WORDS[str(value).strip().lower()]
        if isinstance(value, str):
            return float(value) if kind == "f" else int(value)
        if value is None or (kind != "f" and isinstance(value, float)):
            raise ValueError(value)
        return value
    except (ValueError, KeyError):
        what = {"f": "a number", "b": "true or false"}.get(kind, "a whole number")
        if value is None or value == "":
            raise InvalidRequest(
                f"row {row}: column '{column}' is empty, and it must be {what}",
                hint="write nan where the model takes missing values" if kind == "f" else None,
            ) from None
        raise InvalidRequest(
            f"row {row}: column '{column}' is {value!r}, and it must be {what}"
        ) from None


def _array(values: list[Any], spec: TensorSpec) -> Array:
    if spec.datatype == "BYTES":
        raw: Array = np.empty(len(values), dtype=np.object_)
        raw[:] = values
        return raw
    try:
        with np.errstate(over="raise"):  # a finite 1e300 is no float32; an inf stays what it is
            return np.array(values, dtype=spec.dtype)
    except (OverflowError, FloatingPointError) as error:
        raise InvalidRequest(f"a value does not fit {spec.datatype} of '{spec.name}'") from error
