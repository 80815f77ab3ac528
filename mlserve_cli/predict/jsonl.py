"""JSON Lines, and a JSON list: rows of the form that a request's row has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mlserve_cli.data import json_list
from mlserve_cli.data.reading import Source
from mlserve_cli.errors import DataError
from mlserve_cli.predict import layout, rows
from mlserve_cli.predict.blocks import Block, Plan, Prepared, Reject
from mlserve_cli.predict.inputs import Inputs
from mlserve_cli.predict.job import Position
from mlserve_cli.predict.opened import Opened
from mlserve_cli.runtime import json_text
from mlserve_cli.runtime.errors import InvalidRequest

_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)


class JsonLinesReader:
    """Finds the lines; they are parsed by those who prepare them."""

    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        self._files = Opened(inputs.files)
        self._plan = plan
        self._assembly = Assembly(plan)

    def total(self) -> int | None:
        """About as many, by the lengths of the first."""
        return self._files.rows(header=False)

    def blocks(self, start: Position) -> Iterator[Block]:
        """A block holds lines."""
        for index in range(start.file, len(self._files)):
            row, offset = (start.row, start.offset) if index == start.file else (0, 0)
            where = self._files.name(index)
            with self._files.open(index) as file:
                if offset:
                    file.seek(offset)
                lines: list[bytes] = []
                for line in file:
                    offset += len(line)
                    text = line.removeprefix(b"\xef\xbb\xbf") if offset == len(line) else line
                    if not text.strip():
                        continue  # an empty line is no row
                    lines.append(text)
                    if len(lines) == self._plan.block:
                        row += len(lines)
                        after = Position(file=index, row=row, offset=offset)
                        yield Block(lines, where, row - len(lines) + 1, len(lines), after)
                        lines = []
            if lines:
                yield Block(lines, where, row + 1, len(lines), Position(file=index + 1))

    def prepare(self, block: Block) -> Prepared:
        """Parse the lines, then the values in them."""
        values: dict[int, Any] = {}
        rejects = []
        for row, line in enumerate(block.content):
            try:
                line.decode("utf-8")
                values[row] = json_text.decode(line, _decoder)
            except UnicodeDecodeError as error:
                rejects.append(Reject(row, f"it is not UTF-8: {error.reason}"))
            except InvalidRequest as error:
                reason = error.message.rpartition("buffer: ")[2]
                rejects.append(Reject(row, f"it is no JSON: {reason}"))
        prepared = self._assembly.prepare(values, block)
        prepared.rejects += rejects
        return prepared

    def close(self) -> None:
        """Files are closed as they end."""


class JsonListReader:
    """A file that holds one list of rows, which is read as a whole."""

    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        from pathlib import Path

        for file in inputs.files:
            if file.is_remote:
                raise DataError(
                    f"'{file.name}' cannot be read from there.", hint="use JSON Lines (.jsonl)"
                )
        self._paths = [Path(file.name) for file in inputs.files]
        self._plan = plan
        self._assembly = Assembly(plan)

    def total(self) -> int | None:
        """Nobody knows before it is parsed."""
        return None

    def blocks(self, start: Position) -> Iterator[Block]:
        """A block holds values."""
        for index in range(start.file, len(self._paths)):
            path = self._paths[index]
            values = [row.value for row in json_list.stream(Source(path))]
            first = start.row if index == start.file else 0
            for row in range(first, len(values), self._plan.block):
                some = values[row : row + self._plan.block]
                after = Position(file=index, row=row + len(some))
                yield Block(some, str(path), row + 1, len(some), after)

    def prepare(self, block: Block) -> Prepared:
        """Make tensors of the values."""
        return self._assembly.prepare(dict(enumerate(block.content)), block)

    def close(self) -> None:
        """Files are closed already."""


class Assembly:
    """Values of JSON → tensors. Each row says by its own names what stands where."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._layouts: dict[tuple[tuple[str, ...], tuple[str, ...]], layout.Layout] = {}

    def prepare(self, held: Mapping[int, Any], block: Block) -> Prepared:
        """Values of rows, by their places in the block. Raises `DataError` for the very first."""
        plan = self._plan
        used: dict[int, layout.Layout | None] = {}
        rejects = []
        for place, value in held.items():
            try:
                used[place] = self._layout(value)
            except DataError as error:
                if block.first + place == 1:  # a file of another kind, not a bad row
                    where = f"the first row of '{block.where}'"
                    text = where + error.message.removeprefix("it")
                    raise DataError(text, hint=error.hint) from error
                rejects.append(Reject(place, rows.reason(error)))
        # Nearly always all rows have the same names; a run of those that do is one group.
        prepared = Prepared(rejects=rejects)
        run: list[int] = []
        fine: list[int] = []
        good = list(used)
        for number, place in enumerate(good):
            run.append(place)
            if number + 1 < len(good) and used[good[number + 1]] is used[place]:
                continue
            mine = used[place]
            some = [held[each] if mine is None else mine.row(held[each]) for each in run]
            assembler = plan.processor if mine is None else mine.assembler
            found = rows.prepare(some, assembler, plan.manifest, places=run)
            prepared.groups += found.groups
            fine += found.rows
            prepared.rejects += found.rejects
            run = []
        prepared.rows = fine
        prepared.kept = {name: [held[row].get(name) for row in fine] for name in plan.keep}
        return prepared

    def _layout(self, value: Any) -> layout.Layout | None:
        if not isinstance(value, dict):
            if self._plan.keep or self._plan.mapping:
                raise DataError("it has no names")
            return None
        names = tuple(value)
        nested = tuple(name for name in names if isinstance(value[name], (list, dict)))
        key = (names, nested)
        found = self._layouts.get(key)
        if found is None:
            if len(self._layouts) > 1000:  # every row has names of its own
                self._layouts.clear()
            found = layout.find(names, self._plan, where="it", nested=nested)
            self._layouts[key] = found
        return found
