"""A block: some rows of the input on their way through the job, and the readers that make them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlserve_cli.predict.inputs import Inputs
from mlserve_cli.predict.job import Position
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import Processor
from mlserve_cli.runtime.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Block:
    """Rows as the input holds them.

    content: what the reader that made it prepares. where: the file's name. first: the number of
    its first row, from 1; a header is no row. count: its rows. after: where the next block begins.
    """

    content: Any
    where: str
    first: int
    count: int
    after: Position


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that gets no answer. `row` is counted within the block, from 0."""

    row: int
    reason: str
    where: str | None = None  # the file, where every row of a block is one


@dataclass(slots=True)
class Prepared:
    """A block as the model takes it.

    groups: runs of rows that may share a batch, in order. rows: for each row of the groups, its
    place in the block. kept: columns for the output, a value a row of the groups. names: of the
    files, for each row of the block, where each is one.
    """

    groups: list[Tensors] = field(default_factory=list)
    rows: Sequence[int] = ()
    rejects: list[Reject] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every reader is told.

    mapping: of an input, or of a column that the package declares → the columns of the file.
    keep: columns that are copied to the output. block: rows that are read at once.
    """

    manifest: Manifest
    processor: Processor
    mapping: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    block: int = 64


class Reader(Protocol):
    """Reads inputs of one kind. `blocks` is used by one thread at a time, `prepare` by several."""

    def __init__(self, inputs: Inputs, plan: Plan) -> None: ...

    def total(self) -> int | None:
        """The rows of all files, or about as many, where that is known without reading them."""
        ...

    def blocks(self, start: Position) -> Iterator[Block]:
        """The blocks from there on; wherever one begins, the same as if all had been read."""
        ...

    def prepare(self, block: Block) -> Prepared:
        """Raises `DataError` for what is wrong with the whole file; a bad row is a `Reject`."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


READERS: Mapping[str, str] = {
    "parquet": "mlserve_cli.predict.parquet:ParquetReader",
    "arrow": "mlserve_cli.predict.arrow:ArrowReader",
    "csv": "mlserve_cli.predict.csv:CsvReader",
    "jsonl": "mlserve_cli.predict.jsonl:JsonLinesReader",
    "json": "mlserve_cli.predict.jsonl:JsonListReader",
    "npy": "mlserve_cli.predict.arrays:NpyReader",
    "npz": "mlserve_cli.predict.arrays:NpzReader",
    "pictures": "mlserve_cli.predict.documents:DocumentReader",
    "texts": "mlserve_cli.predict.documents:DocumentReader",
    "function": "mlserve_cli.predict.function:FunctionReader",
}
"""Kind → `module:Class`, a `Reader`."""


def reader(inputs: Inputs, plan: Plan) -> Reader:
    """The reader of `inputs`."""
    module, _, name = READERS[inputs.kind].partition(":")
    made: Reader = getattr(importlib.import_module(module), name)(inputs, plan)
    return made


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names as an error lists them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
