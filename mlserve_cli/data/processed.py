"""Rows that go through the package's own processing, as a request's rows do."""

from __future__ import annotations

from typing import Any

import msgspec

from mlserve_cli.data import targets
from mlserve_cli.data.reading import Reading
from mlserve_cli.runtime.processing.declaration import Column, TableInput, TextInput
from mlserve_cli.runtime.processing.table import from_text
from mlserve_cli.runtime.tensors import Tensors


class ProcessedRows:
    """Rows in the form that the processor takes.

    A table gets the columns that it declares, so that an id or a note may stand beside them. Text
    is the column `text`, or the only one. Anything else goes as it is, without the target.
    """

    def __init__(self, first: Any, target: str | None, reading: Reading) -> None:
        self._processor = reading.processor
        self._target = target
        self._columns: dict[str, Column] = {}
        self._text: str | None = None
        self.taken: frozenset[str] = frozenset()
        if not isinstance(first, dict):
            return
        declared = reading.manifest.processing.input
        names = [name for name in first if name != target]
        if isinstance(declared, TableInput):
            self._columns = {column.name: column for column in declared.columns}
            self.taken = frozenset(self._columns)
            _check_columns(self._columns, list(first), reading.name)
        elif isinstance(declared, TextInput):
            self._text = "text" if "text" in names or len(names) != 1 else names[0]
            if self._text not in names:
                raise targets.missing(self._text, names, where=reading.name)

    def tensors(self, values: list[Any]) -> Tensors:
        """Hand the rows to the processor."""
        return self._processor.tensors(
            [self._row(value, number) for number, value in enumerate(values)]
        )

    def _row(self, value: Any, number: int) -> Any:
        if not isinstance(value, dict):
            return value
        if self._text is not None:
            return value.get(self._text)
        if self._columns:
            return {
                name: self._cell(self._columns[name], cell, number)
                for name, cell in value.items()
                if name in self._columns
            }
        return {
            name: _guess(cell) if isinstance(cell, Cell) else cell
            for name, cell in value.items()
            if name != self._target
        }

    def _cell(self, column: Column, value: Any, number: int) -> Any:
        return from_text(column, str(value), row=number) if isinstance(value, Cell) else value


class Cell(str):
    """A cell of a CSV file: text whose type only its column tells."""

    __slots__ = ()


def _guess(cell: Cell) -> Any:
    """What JSON would take as a number is one; "007" and "1,5" stay text."""
    try:
        value = msgspec.json.decode(cell.encode())
    except (msgspec.DecodeError, UnicodeEncodeError):
        return str(cell)
    return value if isinstance(value, (int, float)) else str(cell)


def _check_columns(declared: dict[str, Column], there: list[str], where: str) -> None:
    for column in declared.values():
        if column.name in there:
            continue
        unknown = [name for name in there if name not in declared]
        error = targets.missing(column.name, there, where=where)
        near = targets.missing(column.name, unknown, where=where)
        # A missing column with a default is no mistake, unless a misspelt one stands in its place.
        if column.default is None or (near.hint or "").startswith("did you mean"):
            raise error
