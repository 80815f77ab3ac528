"""Put a package into a repository: whole or not at all, and taken out again if it is not wanted.

What is on its way lies in a hidden folder of the repository, so that a server which watches it sees
nothing until one rename makes it whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import manifest as manifests
from .errors import MlserveError, PackageError
from .manifest import MANIFEST, Manifest

_PREFIX = ".delivery."

_STALE_S = 60.0
"""How old a draft is at least that is swept up: between its making and its lock it is nobody's."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """Where a package lies now. `is_new` is false where the very same one lay there already."""

    path: Path
    repository: Path
    is_new: bool
    replaced: Path | None = None  # what lay there before, hidden, until `settle` or `take_back`

    def settle(self) -> None:
        """Keep the new one: the old one goes."""
        if self.replaced is not None:
            shutil.rmtree(self.replaced, ignore_errors=True)

    def take_back(self) -> None:
        """Put things back as they were before the delivery."""
        if not self.is_new:
            return
        hidden = _hidden(self.path.parent)
        self.path.rename(hidden)
        if self.replaced is not None:
            self.replaced.rename(self.path)
        shutil.rmtree(hidden, ignore_errors=True)
        _tidy(self.path.parent, self.repository)


@contextmanager
def draft(repository: Path) -> Iterator[Path]:
    """A hidden folder for what is on its way; what is left in it is swept up.

    So is what others left who were killed; it may be gigabytes, and nobody sees it.
    """
    _sweep(repository)
    hidden = _hidden(repository)
    hidden.mkdir()
    held = os.open(hidden, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every network's file system can
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        os.close(held)


def put(folder: Path, repository: Path, *, replace: bool = False) -> Delivered:
    """Rename a whole package, which lies in a draft of the repository, into its place.

    Raises `PackageError` where it is damaged, or where another package of its name and version is
    there and `replace` is off; OSError where the repository takes no writes.
    """
    manifest = manifests.read(folder)
    manifests.verify_files(folder, manifest)
    target, same = target_of(repository, manifest, replace=replace)
    if same:
        return Delivered(target, repository, is_new=False)
    _flush(folder)
    target.parent.mkdir(exist_ok=True)
    try:
        old = None
        if target.exists():
            old = _hidden(target.parent)
            target.rename(old)
        folder.rename(target)
    except OSError:
        _tidy(target.parent, repository)
        raise
    return Delivered(target, repository, is_new=True, replaced=old)


def target_of(repository: Path, manifest: Manifest, *, replace: bool = False) -> tuple[Path, bool]:
    """Where a package belongs, and whether the very same one lies there already.

    It is `name/version/`, or a folder beside a package that lies flat. Raises `PackageError`.
    """
    if (repository / MANIFEST).is_file():
        raise PackageError(
            f"'{repository}' is one package, and a second one cannot be put into it.",
            hint="serve the folder that it lies in: mlserve up FOLDER",
        )
    there = find(repository, manifest)
    if there is not None:
        path, found = there
        same = found.digest == manifest.digest
        if not same and not replace:
            raise PackageError(
                f"the repository holds another '{found.name}' version {found.version}, in "
                f"'{path}'.",
                hint="give the package another --version, or replace that one with --replace",
            )
        return path, same
    if (repository / manifest.name / MANIFEST).is_file():
        target = repository / f"{manifest.name}-{manifest.version}"
    else:
        target = repository / manifest.name / manifest.version
    if target.exists() or target.is_symlink():
        raise PackageError(f"'{target}' is in the way, and is no package.", hint="move it away")
    return target, False


def find(repository: Path, wanted: Manifest) -> tuple[Path, Manifest] | None:
    """Where a package of that name and version lies in the repository; None where none does."""
    for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}"):
        for file in sorted(repository.glob(pattern)):
            place = file.parent
            if any(part.startswith(".") for part in place.relative_to(repository).parts):
                continue
            try:
                found = manifests.read(place)
            except MlserveError:  # not ours to judge here
                continue
            if (found.name, found.version) == (wanted.name, wanted.version):
                return place, found
    return None


def _flush(folder: Path) -> None:
    """Bring the files to the disk before a rename makes them visible."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _hidden(folder: Path) -> Path:
    return folder / f"{_PREFIX}{secrets.token_hex(4)}"


def _sweep(repository: Path) -> None:
    """Remove drafts that nobody holds any more: a lock ends with the process that has it."""
    for stale in repository.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # it went meanwhile, is held, or is no folder
            if time.time() - stale.stat().st_mtime < _STALE_S:
                continue
            held = os.open(stale, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(stale, ignore_errors=True)
            finally:
                os.close(held)


def _tidy(folder: Path, repository: Path) -> None:
    """Remove a model's folder that holds nothing any more."""
    if folder != repository and not list(folder.iterdir()):
        folder.rmdir()
