"""Answers as CSV: one line a row, the columns are those of the first answer."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from mlserve_cli.errors import DataError
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import Processor
from mlserve_cli.runtime.processing.declaration import ClassesOutput
from mlserve_cli.runtime.tensors import Tensors


class CsvWriter:
    """`label` and `score` of a class; else a column a value: `name`, `name_0`, `name_1` …"""

    def __init__(self, file: BinaryIO, manifest: Manifest, processor: Processor) -> None:
        # The scores of the best classes are of other classes in every row: no columns.
        self._best_only = isinstance(manifest.processing.output, ClassesOutput)
        self._processor = processor
        self._file = file
        self._columns: list[str] | None = None
        self._rows = 0

    def write(self, outputs: Tensors) -> None:
        """Write a line a row, and the header before the first."""
        text = io.StringIO(newline="")
        lines = csv.writer(text, lineterminator="\n")
        for answer in self._processor.answers(outputs):
            self._rows += 1
            flat = dict(self._cells(answer))
            if self._columns is None:
                self._columns = list(flat)
                lines.writerow(self._columns)
            if list(flat) != self._columns:
                raise DataError(
                    f"the answer to row {self._rows} has the columns {', '.join(flat)}, and those "
                    f"before it {', '.join(self._columns)}.",
                    hint="write to .jsonl",
                )
            lines.writerow(flat.values())
        self._file.write(text.getvalue().encode())

    def finish(self) -> None:
        """Everything is written already."""
        self._file.flush()

    def _cells(self, answer: Any) -> Iterator[tuple[str, Any]]:
        if self._best_only and isinstance(answer, dict) and "scores" in answer:
            answer = {name: value for name, value in answer.items() if name != "scores"}
        return _flat("" if isinstance(answer, dict) else "answer", answer)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Nested answers → (column, cell)."""
    items: Any
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from _flat(f"{name}_{key}" if name else str(key), item)
