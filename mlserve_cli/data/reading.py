"""What every reader is told: the model's side of the bargain, and how many rows to give at once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mlserve_cli.errors import DataError
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import Processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How to read one source.

    target: the name of the column or array with the targets; None looks for a usual name.
    targets: whether targets are wanted; without them a column of a usual name is still left out
        where the model has no place for it.
    """

    name: str
    manifest: Manifest
    processor: Processor
    batch: int
    target: str | None = None
    targets: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or what is piped in (`path` is None)."""

    path: Path | None

    @property
    def name(self) -> str:
        """How errors name it."""
        return "stdin" if self.path is None else f"'{self.path}'"

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The bytes. Raises `DataError` when they cannot be read."""
        if self.path is None:
            yield sys.stdin.buffer
            return
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror}.") from error
        with file:
            yield file
