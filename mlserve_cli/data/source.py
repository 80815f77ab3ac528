"""`--data` and `--calibration`: a name on the command line → batches of tensors."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mlserve_cli.data.batch import Batch
from mlserve_cli.data.reading import Reading, Source
from mlserve_cli.errors import DataError
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import Processor

__all__ = ["READERS", "Batch", "read"]

READERS: Mapping[str, str] = {
    ".npz": "mlserve_cli.data.npz:read",
    ".csv": "mlserve_cli.data.csv:read",
    ".json": "mlserve_cli.data.json_list:read",
    ".jsonl": "mlserve_cli.data.jsonl:read",
    ".ndjson": "mlserve_cli.data.jsonl:read",
    ".parquet": "mlserve_cli.data.arrow:read",
    ".arrow": "mlserve_cli.data.arrow:read",
    ".feather": "mlserve_cli.data.arrow:read",
}
"""Suffix → `module:function` from (Source, Reading) to an iterator of batches."""

WHAT = ".npz, .csv, .json, .jsonl, .parquet, a folder of pictures, or file.py:function"


def read(
    spec: str,
    manifest: Manifest,
    processor: Processor,
    *,
    batch: int = 64,
    target: str | None = None,
    targets: bool = True,
    format: str | None = None,
) -> Iterator[Batch]:
    """Stream the rows of `spec` as batches of at most `batch` that fit the model's signature.

    spec: a file by its suffix, a folder of pictures, `file.py:function`; or "-", what is piped in
        as `format` ("csv" or "jsonl").
    target: the name of the targets, where it is none of the usual; targets=False leaves them out.

    A missing source raises at once, all else while reading: `DataError` naming what is wrong and
    where, `DefinitionError` for the user's own function.
    """
    reading = Reading(
        name="stdin" if spec == "-" else f"'{spec}'",
        manifest=manifest,
        processor=processor,
        batch=max(1, batch),
        target=target,
        targets=targets,
    )
    file, separator, function = spec.rpartition(":")
    if separator and file.endswith(".py"):
        from mlserve_cli.data import function as functions

        return functions.read(Path(file), function, reading)
    if spec == "-":
        return _reader(f".{format}", "stdin")(Source(None), reading)
    path = Path(spec)
    if not path.exists():
        raise DataError(f"'{spec}' does not exist.", hint=f"data is {WHAT}")
    if path.is_dir():
        from mlserve_cli.data import folder

        return folder.read(path, reading)
    suffix = f".{format}" if format else path.suffix.lower()
    return _reader(suffix, f"'{spec}'")(Source(path), reading)


def _reader(suffix: str, name: str) -> Callable[[Source, Reading], Iterator[Batch]]:
    target = READERS.get(suffix)
    if target is None:
        hint = f"data is {WHAT}"
        if suffix == ".py":
            hint = "name the function that yields the batches: file.py:function"
        raise DataError(f"{name} is of no kind that can be read ('{suffix}').", hint=hint)
    module, _, function = target.partition(":")
    reader: Callable[[Source, Reading], Iterator[Batch]] = getattr(
        importlib.import_module(module), function
    )
    return reader
