"""The copy of the runtime that a server folder carries, and how it is renewed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from mlserve_cli import runtime
from mlserve_cli.errors import PackageError
from mlserve_cli.package.draft import hidden_beside, move, writing

NAME = "mlserve_runtime"
VERSION = "VERSION"

_SOURCE = Path(runtime.__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Renewed:
    """Which version the copy had, and which it has now."""

    before: str
    after: str


def version(folder: Path = _SOURCE) -> str:
    """What the VERSION file of a runtime says; "unknown" where it has none."""
    try:
        return (folder / VERSION).read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


def write(folder: Path) -> None:
    """Copy the runtime to `folder/mlserve_runtime`."""
    shutil.copytree(_SOURCE, folder / NAME, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def refresh(folder: Path) -> Renewed:
    """Replace the runtime in a server folder, whole or not at all; nothing else is touched.

    Raises `PackageError` when `folder` is no server folder.
    """
    target = folder / NAME
    if not target.is_dir() or not (folder / "server.py").is_file():
        raise PackageError(
            f"'{folder}' is not a server folder: it has no server.py with {NAME}/ beside it.",
            hint="'mlserve emit PKG -o DIR' writes one",
        )
    before = version(target)
    with writing(target), hidden_beside(target) as hidden:
        hidden.mkdir()
        write(hidden)
        move(hidden / NAME, target)
    return Renewed(before, version(target))
