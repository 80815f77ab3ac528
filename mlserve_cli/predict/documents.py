"""Files that are one row each: pictures and texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlserve_cli.errors import DataError
from mlserve_cli.predict import rows
from mlserve_cli.predict.blocks import Block, Plan, Prepared, Reject
from mlserve_cli.predict.inputs import Inputs
from mlserve_cli.predict.job import Position
from mlserve_cli.predict.location import Location


class DocumentReader:
    """Lists the files; they are read and decoded by those who prepare them, several at a time."""

    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        if plan.keep or plan.mapping:
            raise DataError(
                f"files of {inputs.kind} have no columns.",
                hint="leave out --keep and --map; the answers hold each file's name",
            )
        self._files = inputs.files
        self._plan = plan
        self._texts = inputs.kind == "texts"

    def total(self) -> int | None:
        """A row a file."""
        return len(self._files)

    def blocks(self, start: Position) -> Iterator[Block]:
        """A block holds files."""
        for row in range(start.row, len(self._files), self._plan.block):
            some = self._files[row : row + self._plan.block]
            after = Position(row=row + len(some))
            yield Block(some, some[0].name, row + 1, len(some), after)

    def prepare(self, block: Block) -> Prepared:
        """Read and decode; a file that cannot be is rejected."""
        values: dict[int, Any] = {}
        unread = []
        for row, file in enumerate(block.content):
            try:
                values[row] = self._read(file)
            except DataError as error:
                unread.append(Reject(row, error.message.removesuffix(".")))
        plan = self._plan
        prepared = rows.prepare(
            list(values.values()), plan.processor, plan.manifest, places=list(values)
        )
        prepared.rejects += unread
        prepared.names = [file.name for file in block.content]
        prepared.kept = {"file": [block.content[row].label for row in prepared.rows]}
        return prepared

    def _read(self, file: Location) -> Any:
        content = file.read()
        if not self._texts:
            return content
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"the text is not UTF-8: {error.reason}.") from error

    def close(self) -> None:
        """Files are closed already."""
