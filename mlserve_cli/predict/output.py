"""Where answers go: written beside their place, renamed when they are whole."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from mlserve_cli.errors import DataError
from mlserve_cli.package.draft import hidden_beside, writing
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import Processor
from mlserve_cli.runtime.tensors import Tensors

WRITERS: Mapping[str, str] = {
    ".csv": "mlserve_cli.predict.csv:CsvWriter",
    ".jsonl": "mlserve_cli.predict.jsonl:JsonLinesWriter",
    ".ndjson": "mlserve_cli.predict.jsonl:JsonLinesWriter",
    ".npz": "mlserve_cli.predict.npz:NpzWriter",
}
"""Suffix → `module:Class`, called with (file, manifest, processor)."""


class Writer(Protocol):
    """Takes the outputs of batch after batch."""

    def write(self, outputs: Tensors) -> None:
        """Write the answers of one batch, a row for a row."""
        ...

    def finish(self) -> None:
        """Write what is left to be written; the file is closed by its owner."""
        ...


@contextlib.contextmanager
def open_target(
    target: str, manifest: Manifest, processor: Processor, *, format: str, overwrite: bool
) -> Iterator[Writer]:
    """Yield the writer for `target`; when the block ends well, the file is put in its place.

    Raises `DataError` for a suffix that cannot be written and a place that is taken.
    """
    if target == "-":
        make = _writer(f".{format}", "stdout")
        # A buffer of our own: what a full disk refuses must not be written again at exit.
        try:
            with open(sys.stdout.fileno(), "wb", closefd=False) as pipe:
                writer = make(pipe, manifest, processor)
                yield writer
                writer.finish()
        except BrokenPipeError:
            pass  # the reader has all that it wants (`| head`)
        except OSError as error:
            raise DataError(f"stdout cannot be written: {error.strerror}.") from error
        return
    path = Path(target)
    make = _writer(path.suffix.lower(), f"'{target}'")
    if path.is_dir():
        raise DataError(f"'{target}' is a folder.", hint="name a file: .csv, .jsonl or .npz")
    if path.exists() and not overwrite:
        raise DataError(f"'{target}' exists already.", hint="choose another name, or add --force")
    with writing(path), hidden_beside(path) as hidden:
        with hidden.open("xb") as file:
            writer = make(file, manifest, processor)
            yield writer
            writer.finish()
        hidden.replace(path)


def _writer(suffix: str, name: str) -> Callable[[BinaryIO, Manifest, Processor], Writer]:
    target = WRITERS.get(suffix)
    if target is None:
        raise DataError(
            f"{name} is of no kind that can be written ('{suffix}').",
            hint="answers go to .csv, .jsonl or .npz",
        )
    module, _, attribute = target.partition(":")
    make: Callable[[BinaryIO, Manifest, Processor], Writer] = getattr(
        importlib.import_module(module), attribute
    )
    return make
