"""CSV, row by row: UTF-8, a header line with the names of the columns, commas."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from mlserve_cli.data.csv import header as checked_header
from mlserve_cli.data.processed import Cell
from mlserve_cli.errors import DataError, first_line
from mlserve_cli.predict import layout, rows
from mlserve_cli.predict.blocks import Block, Plan, Prepared, Reject
from mlserve_cli.predict.inputs import Inputs
from mlserve_cli.predict.job import Position
from mlserve_cli.predict.opened import Opened

Parsed = list[str] | str
"""The cells of a row, or why it is none."""


class CsvReader:
    """Finds the rows; what their cells mean is found by those who prepare them."""

    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        self._files = Opened(inputs.files)
        self._plan = plan
        self._layouts: dict[tuple[str, ...], layout.Layout] = {}

    def total(self) -> int | None:
        """About as many, by the lengths of the first."""
        return self._files.rows(header=True)

    def blocks(self, start: Position) -> Iterator[Block]:
        """A block holds (header, [cells, or what is wrong with the row])."""
        for index in range(start.file, len(self._files)):
            row, offset = (start.row, start.offset) if index == start.file else (0, 0)
            with self._files.open(index) as file:
                yield from self._blocks(file, index, row, offset)

    def _blocks(self, file: BinaryIO, index: int, row: int, offset: int) -> Iterator[Block]:
        where = self._files.name(index)
        lines = _Lines(file)
        header = self._header(lines, where)
        if header is None:
            return
        if offset:
            file.seek(offset)
            lines.offset = offset
        # The layout is settled by the first file's header: later ones only have to hold it.
        parser = csv.reader(lines, strict=True)
        found: list[Parsed] = []
        while True:
            lines.damaged = None
            try:
                cells: Parsed | None = next(parser, None)
            except csv.Error as error:
                cells = first_line(error)
            except (OSError, EOFError) as error:
                raise DataError(f"'{where}' cannot be read: {first_line(error)}.") from error
            if cells is not None and not cells:
                continue  # an empty line is no row
            if cells is not None:
                found.append(_checked(cells, header, lines.damaged))
            if found and (cells is None or len(found) == self._plan.block):
                after = Position(file=index, row=row + len(found), offset=lines.offset)
                if cells is None:
                    after = Position(file=index + 1)
                yield Block((header, found), where, row + 1, len(found), after)
                row += len(found)
                found = []
            if cells is None:
                return

    def _header(self, lines: _Lines, where: str) -> list[str] | None:
        try:
            names = next(csv.reader(lines, strict=True), None)
        except csv.Error as error:
            raise DataError(f"the header of '{where}' cannot be read: {error}.") from error
        if lines.damaged:
            raise DataError(
                f"'{where}' is not UTF-8: {lines.damaged}.", hint="save it again as UTF-8"
            )
        if names:
            names[0] = names[0].removeprefix("\ufeff")
        header = checked_header(names, f"'{where}'")
        self._layout(header, where)
        return header

    def _layout(self, header: list[str], where: str) -> layout.Layout:
        key = tuple(header)
        if key not in self._layouts:
            self._layouts[key] = layout.find(header, self._plan, where=f"'{where}'")
        return self._layouts[key]

    def prepare(self, block: Block) -> Prepared:
        """Parse the cells by the types of their columns."""
        header, found = block.content
        used = self._layout(header, block.where)
        whole = {row: cells for row, cells in enumerate(found) if not isinstance(cells, str)}
        values = [
            used.row(dict(zip(header, map(Cell, cells), strict=True))) for cells in whole.values()
        ]
        prepared = rows.prepare(values, used.assembler, self._plan.manifest, places=list(whole))
        prepared.rejects += [
            Reject(row, cells) for row, cells in enumerate(found) if isinstance(cells, str)
        ]
        prepared.kept = {
            name: [found[row][header.index(name)] for row in prepared.rows]
            for name in self._plan.keep
        }
        return prepared

    def close(self) -> None:
        """Files are closed as they end."""


class _Lines:
    """The lines of a file as text, for the parser, with the count of bytes that it took."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.offset = 0
        self.damaged: str | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.offset += len(line)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.damaged = error.reason
            return line.decode("utf-8", "replace")


def _checked(cells: Parsed, header: list[str], damaged: str | None) -> Parsed:
    if isinstance(cells, str):
        return f"it is no CSV: {cells}"
    if damaged:
        return f"it is not UTF-8: {damaged} (save the file again as UTF-8)"
    if len(cells) != len(header):
        return (
            f"it has {len(cells)} values, and the header names {len(header)} columns "
            '(a value that holds a comma stands in "quotes")'
        )
    return cells
