"""CSV: UTF-8, a header line with the names of the columns, commas."""

from __future__ import annotations

import collections
import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from mlserve_cli.data.csv import header as checked_header
from mlserve_cli.data.processed import Cell
from mlserve_cli.errors import DataError, first_line
from mlserve_cli.predict import cells, layout, rows
from mlserve_cli.predict.blocks import Block, Plan, Prepared, Reject
from mlserve_cli.predict.inputs import Inputs
from mlserve_cli.predict.job import Position
from mlserve_cli.predict.opened import Opened

Parsed = list[str] | str
"""The cells of a row, or why it is none."""

_FEW = 64
"""Rows that are looked at one by one where a block cannot be converted as a whole."""


class CsvReader:
    """Finds the rows; what their cells mean is found by those who prepare them.

    Lines without quotes are rows as they stand, and are parsed by those who prepare them, too.
    """

    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        self._files = Opened(inputs.files)
        self._plan = plan
        self._layouts: dict[tuple[str, ...], layout.Layout] = {}
        self._cells: dict[tuple[str, ...], cells.Cells | None] = {}

    def total(self) -> int | None:
        """About as many, by the lengths of the first."""
        return self._files.rows(header=True)

    def blocks(self, start: Position) -> Iterator[Block]:
        """A block holds (header, the lines, or a list of the cells or what is wrong with a row)."""
        for index in range(start.file, len(self._files)):
            row, offset = (start.row, start.offset) if index == start.file else (0, 0)
            with self._files.open(index) as file:
                yield from self._blocks(file, index, row, offset)

    def _blocks(self, file: BinaryIO, index: int, row: int, offset: int) -> Iterator[Block]:
        where = self._files.name(index)
        lines = _Lines(file)
        header = self._header(lines, where)
        if offset:
            file.seek(offset)
            lines.offset = offset
        quick = self._cells[tuple(header)] is not None
        while True:
            found: bytes | list[Parsed]
            plain = lines.plain(self._plan.block) if quick else None
            if plain is None:
                found = list(itertools.islice(_rows(lines, header), self._plan.block))
                count = len(found)
            else:
                found, count = plain
            if not count:
                return
            after = Position(file=index, row=row + count, offset=lines.offset)
            if count < self._plan.block:
                after = Position(file=index + 1)
            yield Block((header, found), where, row + 1, count, after)
            row += count

    def _header(self, lines: _Lines, where: str) -> list[str]:
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
        key = tuple(header)
        if key not in self._layouts:
            used = layout.find(header, self._plan, where=f"'{where}'")
            self._layouts[key] = used
            self._cells[key] = cells.find(header, used, self._plan, where=f"'{where}'")
        return header

    def prepare(self, block: Block) -> Prepared:
        """Parse the cells by the types of their columns."""
        header, found = block.content
        quick = self._cells[tuple(header)]
        if isinstance(found, bytes):
            whole = None if quick is None else quick.of_text(found, block.count)
            if whole is not None:
                tensors, kept = whole
                return Prepared([tensors], range(block.count), kept=kept)
            found = list(_rows(_Lines(iter(found.splitlines(keepends=True))), header))
        good = {row: cells for row, cells in enumerate(found) if not isinstance(cells, str)}
        prepared = self._prepared(header, list(good), list(good.values()))
        prepared.rejects += [
            Reject(row, cells) for row, cells in enumerate(found) if isinstance(cells, str)
        ]
        prepared.kept = {}
        for name in self._plan.keep:
            place = header.index(name)
            prepared.kept[name] = [found[row][place] for row in prepared.rows]
        return prepared

    def _prepared(
        self, header: list[str], places: Sequence[int], found: Sequence[list[str]]
    ) -> Prepared:
        """All at once, or in two halves, down to a few that are taken one by one."""
        key = tuple(header)
        quick = self._cells[key]
        if quick is not None and found:
            tensors = quick.of_cells(found)
            if tensors is not None:
                return Prepared([tensors], places)
            if len(found) > _FEW:
                half = len(found) // 2
                first = self._prepared(header, places[:half], found[:half])
                return _together(first, self._prepared(header, places[half:], found[half:]))
        used = self._layouts[key]
        values = [used.row(dict(zip(header, map(Cell, cells), strict=True))) for cells in found]
        return rows.prepare(values, used.assembler, self._plan.manifest, places=places)

    def close(self) -> None:
        """Files are closed as they end."""


def _together(first: Prepared, second: Prepared) -> Prepared:
    """Two runs of rows that go together as one."""
    groups = first.groups + second.groups
    if len(groups) > 1:
        groups = [{name: np.concatenate([group[name] for group in groups]) for name in groups[0]}]
    return Prepared(groups, [*first.rows, *second.rows], first.rejects + second.rejects)


class _Lines:
    """The lines of a file as text, for the parser, with the count of bytes that it took."""

    def __init__(self, file: Iterable[bytes]) -> None:
        self._lines = iter(file)
        self._back: collections.deque[bytes] = collections.deque()
        self.offset = 0
        self.damaged: str | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.offset += len(line)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.damaged = error.reason
            return line.decode("utf-8", "replace")

    def plain(self, count: int) -> tuple[bytes, int] | None:
        """So many rows, fewer at the end, that are lines; None, and nothing is taken, where a
        parser has to tell what is a row."""
        taken: list[bytes] = []
        held: list[bytes] = []
        while len(held) < count and (some := self._take(count - len(held))):
            taken += some
            if _needs_parser(some):
                self._back.extendleft(reversed(taken))
                return None
            if b"\n" in some or b"\r\n" in some:  # an empty line is no row
                some = [line for line in some if line.strip(b"\r\n")]
            held += some
        self.offset += sum(map(len, taken))
        return b"".join(held), len(held)

    def _take(self, count: int) -> list[bytes]:
        if not self._back:
            return list(itertools.islice(self._lines, count))
        return [self._back.popleft() for _ in range(min(count, len(self._back)))]


def _needs_parser(lines: Sequence[bytes]) -> bool:
    """Whether a line holds a quote, a carriage return, or more than a parser takes."""
    text = b"".join(lines)
    return (
        b'"' in text
        or text.count(b"\r") != text.count(b"\r\n")
        or max(map(len, lines)) > csv.field_size_limit()
    )


def _rows(lines: _Lines, header: Sequence[str]) -> Iterator[Parsed]:
    """The rows as a parser finds them."""
    parser = csv.reader(lines, strict=True)
    while True:
        lines.damaged = None
        try:
            cells: Parsed | None = next(parser, None)
        except csv.Error as error:
            cells = first_line(error)
        if cells is None:
            return
        if cells:  # an empty line is no row
            yield _checked(cells, header, lines.damaged)


def _checked(cells: Parsed, header: Sequence[str], damaged: str | None) -> Parsed:
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
