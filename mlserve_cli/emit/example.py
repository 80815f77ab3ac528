"""A golden row of each model, as a file that the client in the server folder sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlserve_cli.package.package import Package
from mlserve_cli.runtime import example

FOLDER = "examples"

_SUFFIXES = {"image/png": ".png", "application/json": ".json", "text/plain": ".txt"}


@dataclass(frozen=True, slots=True)
class ExampleFile:
    """Where it lies in the folder, what it is, and the path of the server that takes it."""

    file: str
    content_type: str
    path: str


def write(packages: Sequence[Package], folder: Path) -> list[ExampleFile]:
    """Write `examples/NAME.png`, `.json` or `.txt` for every model; of two versions, the last."""
    (folder / FOLDER).mkdir()
    written = {}
    for package in packages:
        found = example.of(package)
        suffix = _SUFFIXES.get(found.content_type, ".bin")
        file = f"{FOLDER}/{package.manifest.name}{suffix}"
        (folder / file).write_bytes(found.body)
        written[package.manifest.name] = ExampleFile(file, found.content_type, found.path)
    return list(written.values())
