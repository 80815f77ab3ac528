"""The files of an input that is read as one stream each, or stdin in their place."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from mlserve_cli.errors import DataError, first_line
from mlserve_cli.predict.location import DAMAGED, Location

_SAMPLE_BYTES = 1 << 18


class Opened:
    """Opens file after file; without any there is one, stdin."""

    def __init__(self, files: Sequence[Location]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files) or 1

    def name(self, index: int) -> str:
        """How errors and rejects call it."""
        return self._files[index].name if self._files else "stdin"

    def rows(self, *, header: bool) -> int | None:
        """About how many rows all files hold, by the lines at the beginning of the first."""
        if not self._files or any(file.name.lower().endswith(".gz") for file in self._files):
            return None
        with self.open(0) as file:
            sample = file.read(_SAMPLE_BYTES)
        lines = sample.count(b"\n")
        total = sum(file.size for file in self._files)
        if not lines:
            return None
        rows = round(total * lines / len(sample)) if len(sample) < total else lines
        return max(1, rows - (len(self._files) if header else 0))

    @contextlib.contextmanager
    def open(self, index: int) -> Iterator[BinaryIO]:
        """The bytes, from the beginning. Raises `DataError`, also for what goes wrong while they
        are read."""
        with contextlib.ExitStack() as stack:
            if self._files:
                file = stack.enter_context(self._files[index].open())
            else:
                # A buffer of our own: one that a thread waits in would hold up the process's end.
                file = io.BufferedReader(io.FileIO(0, closefd=False))
            try:
                yield file
            except DAMAGED as error:
                raise DataError(f"'{self.name(index)}' cannot be read: {first_line(error)}.") from (
                    error
                )
