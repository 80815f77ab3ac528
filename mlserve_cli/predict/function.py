"""`file.py:function`: the user's own generator of batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlserve_cli.data import function
from mlserve_cli.data.reading import Reading
from mlserve_cli.errors import DataError
from mlserve_cli.predict.blocks import Block, Plan, Prepared
from mlserve_cli.predict.inputs import Inputs
from mlserve_cli.predict.job import Position


class FunctionReader:
    """A batch that the function yields is a block, or several. To go on, it is run again."""

    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        if plan.keep or plan.mapping:
            raise DataError(
                f"'{inputs.spec}' yields the model's inputs, and no columns.",
                hint="leave out --keep and --map",
            )
        self._spec = inputs.spec
        self._plan = plan

    def total(self) -> int | None:
        """Nobody knows before the end."""
        return None

    def blocks(self, start: Position) -> Iterator[Block]:
        """A block holds tensors."""
        file, _, name = self._spec.rpartition(":")
        reading = Reading(
            name=f"'{self._spec}'",
            manifest=self._plan.manifest,
            processor=self._plan.processor,
            batch=self._plan.block,
            targets=False,
        )
        row = 0
        for batch in function.read(Path(file), name, reading):
            for part in batch.parts(self._plan.block):
                row += part.size
                if row <= start.row:
                    continue
                after = Position(row=row)
                yield Block(part.inputs, self._spec, row - part.size + 1, part.size, after)

    def prepare(self, block: Block) -> Prepared:
        """They are tensors already."""
        return Prepared([block.content], range(block.count))

    def close(self) -> None:
        """Nothing is open."""
