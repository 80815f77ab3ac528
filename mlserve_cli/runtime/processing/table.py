"""Rows with named columns → one matrix, or a tensor a column."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import json_text
from ..errors import InvalidRequest, PackageError
from ..manifest import Manifest
from ..tensors import Array, Tensors, TensorSpec
from . import multipart, payload
from .cells import to_array, to_bytes
from .declaration import Column, TableInput
from .outputs import plain
from .processor import Payload

_MISSING = object()
_MEANING = {
    "number": "a number",
    "integer": "a whole number",
    "string": "a string",
    "boolean": "true or false",
}
_TRUE = {"true", "yes", "1"}
_FALSE = {"false", "no", "0"}


class TableReader:
    """Objects by column name, or lists in the columns' order."""

    def __init__(self, manifest: Manifest, declared: TableInput) -> None:
        self._columns = declared.columns
        self._names = [column.name for column in declared.columns]
        self._by_name = {column.name: column for column in declared.columns}
        self._tensors = _assign(manifest, declared)
        _check(manifest, declared, self._tensors)

    def rows(self, body: bytes, content_type: str) -> list[Any]:
        """JSON or CSV with a header line → rows."""
        kind = payload.kind_of(body, content_type, otherwise="json")
        if kind == "csv":
            return self._csv(body)
        if kind not in ("json", "text"):
            raise payload.refuse(kind, allowed="application/json or text/csv")
        rows = payload.json_rows(body)
        # A single row may come as a bare list of values.
        return [rows] if not isinstance(rows[0], (dict, list)) else rows

    def form(self, fields: dict[str, str | bytes]) -> list[Any]:
        """One row; its values are read like the cells of CSV."""
        return [self._from_text(multipart.only_text(fields), 0)]

    def tensors(self, rows: list[Any]) -> Tensors:
        """Check every cell and stack them."""
        table = [self._cells(row, number) for number, row in enumerate(rows)]
        columns = dict(zip(self._names, zip(*table, strict=True), strict=True))
        return {
            spec.name: self._tensor(spec, [columns[name] for name in names])
            for spec, names in self._tensors
        }

    def example(self, inputs: Tensors) -> Payload | None:
        """The first row as one JSON object."""
        values: dict[str, Any] = {}
        for spec, names in self._tensors:
            (row,) = plain(inputs[spec.name][:1])
            row = row if isinstance(row, list) else [row]
            values |= {
                name: _shown(self._by_name[name], value)
                for name, value in zip(names, row, strict=True)
            }
        ordered = {name: values[name] for name in self._names}
        return Payload(json_text.encode(ordered, finite=False), "application/json")

    def _cells(self, row: Any, number: int) -> list[Any]:
        """The values of one row in the columns' order, defaults filled in."""
        if isinstance(row, (list, tuple)):
            if len(row) != len(self._names):
                raise InvalidRequest(
                    f"row {number} has {len(row)} values, and there are {len(self._names)} columns",
                    hint="send objects by column name: " + _listed(self._names),
                )
            row = dict(zip(self._names, row, strict=True))
        elif not isinstance(row, dict):
            raise InvalidRequest(
                f"row {number} is {payload.show(row)}, and it must be an object by column name",
                hint="its columns are " + _listed(self._names),
            )
        cells = []
        known = 0
        for column in self._columns:
            value = row.get(column.name, _MISSING)
            known += value is not _MISSING
            if value is None and column.nullable:
                cells.append(math.nan)
                continue
            if value is _MISSING or value is None:
                value = column.default
                if value is None:
                    raise self._absent(column, row, number)
            cells.append(_checked(column, value, number))
        if known != len(row):
            raise self._unknown(row, number)
        return cells

    def _absent(self, column: Column, row: dict[str, Any], number: int) -> InvalidRequest:
        hint = f"it is {_MEANING[column.type]} and has no default"
        if column.nullable:
            hint += "; null says that it is missing"
        others = [str(name) for name in row if name not in self._by_name]
        near = difflib.get_close_matches(column.name, others, n=1)
        if near:
            hint += f"; is it called {payload.show(near[0])} there?"
        missing = "value for column" if column.name in row else "column"
        return InvalidRequest(f"row {number} has no {missing} '{column.name}'", hint=hint)

    def _unknown(self, row: dict[str, Any], number: int) -> InvalidRequest:
        name = next(str(name) for name in row if name not in self._by_name)
        near = difflib.get_close_matches(name, self._names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "its columns are " + _listed(self._names)
        return InvalidRequest(f"row {number} has an unknown column {payload.show(name)}", hint=hint)

    def _tensor(self, spec: TensorSpec, columns: Sequence[Sequence[Any]]) -> Array:
        count = len(columns[0])
        if spec.datatype == "BYTES":
            array: Array = np.empty((count, len(columns)), dtype=np.object_)
            for index, column in enumerate(columns):
                array[:, index] = [to_bytes(_text(item), where="a column") for item in column]
        else:
            where = "the columns" if len(columns) > 1 else "the column"
            kind = spec.dtype.kind
            plain = [[_number(item, kind) for item in row] for row in zip(*columns, strict=True)]
            array = to_array(plain, spec.datatype, where=f"{where} for '{spec.name}'")
        return array.reshape(count) if len(spec.shape) == 1 else array

    def _csv(self, body: bytes) -> list[Any]:
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the CSV is not UTF-8: {error.reason}") from error
        try:
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            _check_header(reader.fieldnames or ())
            rows = [self._from_text(row, number) for number, row in enumerate(reader)]
        except csv.Error as error:
            raise InvalidRequest(f"the CSV cannot be read: {error}") from error
        if not rows:
            raise InvalidRequest("the CSV holds no rows", hint="a header line, then a line a row")
        return rows

    def _from_text(self, row: dict[Any, Any], number: int) -> dict[str, Any]:
        if None in row:
            raise InvalidRequest(f"row {number} of the CSV has more values than the header")
        parsed = {}
        for name, text in row.items():
            column = self._by_name.get(name)
            parsed[name] = from_text(column, text, row=number) if column else text
        return parsed


def _check_header(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):  # one of the two values would be dropped without a word
        double = next(name for name in names if list(names).count(name) > 1)
        raise InvalidRequest(f"the CSV has two columns {payload.show(double)}")


def from_text(column: Column, text: str | None, *, row: int) -> Any:
    """One cell of a text file → the column's type; an empty cell is None, which takes the default.

    Raises `InvalidRequest` naming the row, the column and the value.
    """
    if text is None or (text == "" and column.type != "string"):
        return None
    if column.type == "string":
        return text
    word = text.strip()
    try:
        if column.type == "number":
            return float(word)
        if column.type == "integer":
            return int(word) if word.lstrip("+-").isdigit() else _whole(float(word))
    except ValueError:
        pass
    else:
        if word.lower() in _TRUE:
            return True
        if word.lower() in _FALSE:
            return False
    raise _wrong(column, text, row)


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ValueError(value)
    return int(value)


def _checked(column: Column, value: Any, row: int) -> Any:
    kind = type(value)
    if column.type == "number":
        if kind is float or kind is int:
            return value
    elif column.type == "integer":
        if kind is int:
            return value
        if kind is float and value.is_integer():
            return int(value)
    elif column.type == "string":
        if kind is str:
            return value
    elif kind is bool:
        return value
    raise _wrong(column, value, row)


def _wrong(column: Column, value: Any, row: int) -> InvalidRequest:
    return InvalidRequest(
        f"row {row}: column '{column.name}' is {payload.show(value)}, "
        f"and it must be {_MEANING[column.type]}"
    )


def _number(value: Any, kind: str) -> Any:
    """A cell as the tensor's kind takes it: true is 1; whole floats are integers."""
    if kind == "b":
        return bool(value)
    if isinstance(value, bool):
        return int(value)
    if kind in "ui" and isinstance(value, float):
        if not math.isfinite(value) or not value.is_integer():
            raise InvalidRequest(f"{value} stands where the model takes whole numbers only")
        return int(value)
    return value


def _shown(column: Column, value: Any) -> Any:
    """A tensor's value as its column would be written."""
    if column.type == "boolean":
        return value == "true" if isinstance(value, str) else bool(value)
    if column.type == "string":
        return str(value)
    if value is None:  # not a finite number
        return None
    number = float(value)
    if math.isnan(number):
        return None
    return int(number) if number.is_integer() else number


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def _assign(manifest: Manifest, declared: TableInput) -> list[tuple[TensorSpec, tuple[str, ...]]]:
    """Which columns go into which of the model's inputs."""
    specs = {spec.name: spec for spec in manifest.inputs}
    taken: dict[str, list[str]] = {}
    for column in declared.columns:
        tensor = column.tensor or declared.tensor
        if tensor is None:
            raise PackageError(
                f"the table column '{column.name}' of '{manifest.name}' goes into no tensor.",
                hint='name the matrix in "tensor", or an input for every column',
            )
        taken.setdefault(tensor, []).append(column.name)
    for name in taken:
        if name not in specs:
            raise PackageError(
                f"the table of '{manifest.name}' fills '{name}', which is no input of the model.",
                hint="its inputs are " + ", ".join(specs),
            )
    for name in specs:
        if name not in taken:
            raise PackageError(f"no table column of '{manifest.name}' fills the input '{name}'.")
    return [(specs[name], tuple(columns)) for name, columns in taken.items()]


def _check(
    manifest: Manifest,
    declared: TableInput,
    tensors: list[tuple[TensorSpec, tuple[str, ...]]],
) -> None:
    """Refuse at load time what no request could get right."""
    by_name = {column.name: column for column in declared.columns}
    if len(by_name) != len(declared.columns):
        raise PackageError(f"the table of '{manifest.name}' names a column twice.")
    for spec, names in tensors:
        width = spec.shape[1] if len(spec.shape) == 2 else 1
        fits = len(spec.shape) in (1, 2) and (isinstance(width, str) or width == len(names))
        if not fits or (len(spec.shape) == 1 and len(names) != 1):
            raise PackageError(
                f"the table of '{manifest.name}' puts {len(names)} columns into '{spec.name}', "
                f"which has shape {spec.wire_shape}."
            )
        for name in names:
            if by_name[name].type == "string" and spec.datatype != "BYTES":
                raise PackageError(
                    f"the table column '{name}' of '{manifest.name}' is a string, "
                    f"and '{spec.name}' takes {spec.datatype}."
                )
    for column in declared.columns:
        if column.nullable and column.type not in ("number", "integer"):
            raise PackageError(
                f"the table column '{column.name}' of '{manifest.name}' is {column.type}, "
                "and only numbers can be nullable.",
                hint='give it a default, such as ""',
            )
        if column.nullable and any(
            column.name in names and spec.dtype.kind != "f" for spec, names in tensors
        ):
            raise PackageError(
                f"the table column '{column.name}' of '{manifest.name}' is nullable, "
                "and its input takes whole numbers only.",
                hint="a missing number is NaN, which only floats have",
            )
        if column.default is not None:
            try:
                _checked(column, column.default, 0)
            except InvalidRequest:
                raise PackageError(
                    f"the default {column.default!r} of the table column '{column.name}' of "
                    f"'{manifest.name}' is not {_MEANING[column.type]}."
                ) from None
