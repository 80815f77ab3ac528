"""Blocks of the input, answered, in their order; and the rows of them that are not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from mlserve_cli.errors import DataError
from mlserve_cli.package.package import Package
from mlserve_cli.predict import sizing
from mlserve_cli.predict.answers import Answers, Piece
from mlserve_cli.predict.blocks import Block, Reader, Reject
from mlserve_cli.predict.conveyor import LEAVE_S, Conveyor
from mlserve_cli.predict.job import Position
from mlserve_cli.predict.running import Runner
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.runtime.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Done:
    """A block that was answered."""

    block: Block
    piece: Piece | None
    rows: int
    rejects: list[Reject]


@contextlib.contextmanager
def answering(
    package: Package,
    reader: Reader,
    made: Answers,
    chosen: Sizing,
    batch: int,
    block: int,
    begin: Position,
    *,
    patient: bool,
) -> Iterator[Iterator[Done]]:
    """The blocks from `begin` on, answered, in their order."""
    engines, streams = sizing.load(package, chosen)
    try:
        runner = Runner(engines, streams, package.manifest, batch)

        def work(block: Block) -> Done:
            return _answer(block, reader, runner, made)

        # One more than the engines: it reads while they compute.
        workers = chosen.instances + 1
        conveyor = Conveyor(
            work,
            workers=workers,
            ahead=max(2 * workers, sizing.blocks_ahead(block, sizing.row_bytes(package))),
            leave_s=LEAVE_S if patient else 0.2,
        )
        with contextlib.closing(conveyor.run(reader.blocks(begin))) as done:
            yield done
    finally:
        for engine in engines:
            engine.close()
        reader.close()


def _answer(block: Block, reader: Reader, runner: Runner, made: Answers) -> Done:
    prepared = reader.prepare(block)
    answered = runner.run(prepared.groups)
    rejects = [
        *prepared.rejects,
        *(Reject(prepared.rows[each.row], each.reason) for each in answered.rejects),
    ]
    if prepared.names:
        rejects = [Reject(each.row, each.reason, prepared.names[each.row]) for each in rejects]
    rejects.sort(key=lambda reject: reject.row)
    if not len(answered.places):
        return Done(block, None, 0, rejects)
    kept = prepared.kept
    if len(answered.places) < len(prepared.rows):
        kept = {name: _chosen(column, answered.places) for name, column in kept.items()}
    return Done(block, made.piece(answered.runs, kept), len(answered.places), rejects)


def _chosen(column: Any, places: np.ndarray) -> Any:
    if isinstance(column, list):
        return [column[each] for each in places]
    if isinstance(column, np.ndarray):
        return column[places]
    return column.take(places)


def strict_error(block: Block, reject: Reject) -> DataError:
    """The error that ends a strict job."""
    return DataError(
        f"{place_of(block, reject)} is rejected: {reject.reason}.",
        hint="without --strict such rows go to a file of rejects, and the job goes on",
    )


def place_of(block: Block, reject: Reject) -> str:
    """Which row it is, for a person."""
    if reject.where is not None:
        return f"'{reject.where}'"
    return f"row {block.first + reject.row} of '{block.where}'"


def record(block: Block, reject: Reject) -> bytes:
    """A line of the file of rejects: {"file", "row", "reason"}; without "row" where it is one."""
    if reject.where is not None:
        record: dict[str, Any] = {"file": reject.where, "reason": reject.reason}
    else:
        record = {"file": block.where, "row": block.first + reject.row, "reason": reject.reason}
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def free(manifest: Manifest) -> Manifest:
    """The manifest as the processing is to see it: a row of a file is one row of a batch, also
    where the model takes a fixed number of them."""

    def freed(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(spec.name, spec.datatype, ("batch", *spec.shape[1:])) if spec.shape else spec
            for spec in specs
        )

    return msgspec.structs.replace(
        manifest, inputs=freed(manifest.inputs), outputs=freed(manifest.outputs)
    )
