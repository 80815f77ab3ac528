"""Rows of a file, some at a time, into the model's inputs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlserve_cli.data import targets
from mlserve_cli.data.batch import Batch
from mlserve_cli.data.columns import ColumnRows
from mlserve_cli.data.fit import fit
from mlserve_cli.data.processed import ProcessedRows
from mlserve_cli.data.reading import Reading
from mlserve_cli.errors import DataError
from mlserve_cli.runtime.errors import RequestError
from mlserve_cli.runtime.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in the file. `number` counts from 1; a header is no row."""

    number: int
    value: Any


class Assembler(Protocol):
    """Turns the values of rows into tensors; errors count rows from 0, as requests do."""

    def tensors(self, values: list[Any]) -> Tensors:
        """One row of every input a value."""
        ...


def batches(rows: Iterator[Row], reading: Reading) -> Iterator[Batch]:
    """Give the rows in batches of `reading.batch`; the first row tells what stands where.

    Raises `DataError` naming the file, the row, the column and the value.
    """
    first = next(rows, None)
    if first is None:
        raise DataError(f"{reading.name} holds no rows.")
    named = isinstance(first.value, dict)
    target = None
    if reading.target is not None and not named:
        raise DataError(
            f"the rows of {reading.name} have no names, so there is no target '{reading.target}'.",
            hint='write each row as an object: {"x": …, "target": …}',
        )
    if named:
        target = targets.find(first.value, reading.target, where=reading.name)
    assembler = _assembler(first.value, target, reading)
    if target is not None and target in getattr(assembler, "taken", ()):
        if reading.target is not None and reading.targets:
            raise DataError(
                f"the column '{target}' of {reading.name} is an input of the model, and so no "
                "target.",
                hint="name the column with the right answers",
            )
        target = None  # the model itself takes the column of that name
    rows = itertools.chain([first], rows)
    while chunk := list(itertools.islice(rows, reading.batch)):
        for row in chunk:
            if isinstance(row.value, dict) is not named:
                raise DataError(
                    f"{reading.name}, row {row.number} is {'no' if named else 'an'} object, unlike "
                    "the first."
                )
        yield _batch(chunk, target, assembler, reading)


def _assembler(first: Any, target: str | None, reading: Reading) -> Assembler:
    manifest = reading.manifest
    if manifest.processing.input is not None or manifest.processing.python is not None:
        return ProcessedRows(first, target, reading)
    if not isinstance(first, dict):
        return reading.processor
    scalars = all(not isinstance(value, (list, dict)) for value in first.values())
    if not scalars:
        return ProcessedRows(first, target, reading)
    return ColumnRows(list(first), target, reading)


def _batch(
    chunk: Sequence[Row], target: str | None, assembler: Assembler, reading: Reading
) -> Batch:
    numbers = [row.number for row in chunk]
    where = f"{reading.name}, rows {numbers[0]} to {numbers[-1]}"
    wanted = None
    try:
        inputs = assembler.tensors([row.value for row in chunk])
    except RequestError as error:
        raise DataError(
            f"{reading.name}, {_renumbered(error.message, numbers)}", hint=error.hint
        ) from error
    inputs = fit(inputs, reading.manifest, where=where)
    if target is not None and reading.targets:
        values = [row.value.get(target) for row in chunk]
        wanted = targets.to_array(
            values, reading.manifest.labels, where=reading.name, numbers=numbers
        )
    return Batch(inputs, wanted)


def _renumbered(message: str, numbers: Sequence[int]) -> str:
    """A message about row i of a batch, counted from 0 → about the row of the file."""
    changed, count = re.subn(
        r"^row (\d+)\b",
        lambda match: f"row {numbers[min(int(match[1]), len(numbers) - 1)]}",
        message,
    )
    text = changed if count else f"rows {numbers[0]} to {numbers[-1]}: {message}"
    return text if text.endswith(".") else text + "."
