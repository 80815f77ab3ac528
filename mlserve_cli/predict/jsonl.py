"""Answers as JSON Lines: what the server would answer to each row. NaN is written as null."""

from __future__ import annotations

from typing import BinaryIO

from mlserve_cli.runtime import json_text
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import Processor
from mlserve_cli.runtime.tensors import Tensors


class JsonLinesWriter:
    """One JSON value a line."""

    def __init__(self, file: BinaryIO, manifest: Manifest, processor: Processor) -> None:
        self._file = file
        self._processor = processor

    def write(self, outputs: Tensors) -> None:
        """Write a line a row."""
        lines = [json_text.encode(answer) for answer in self._processor.answers(outputs)]
        self._file.write(b"\n".join(lines) + b"\n")

    def finish(self) -> None:
        """Everything is written already."""
        self._file.flush()
