"""What lies on disk: one package, packages side by side, or `name/version/` folders of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import manifest as manifests
from .errors import PackageError, StartupError
from .manifest import MANIFEST, Manifest

Stamp = tuple[int, int, int]
"""Inode, size and time of change of a manifest: a package that was copied anew has another."""


@dataclass(frozen=True, slots=True)
class Found:
    """A package on disk whose manifest and served files are whole."""

    path: Path
    manifest: Manifest
    stamp: Stamp = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Broken:
    """A package on disk that cannot be served. Its name and version may be guesses by the path."""

    path: Path
    name: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the repository found: every version once, by name and version."""

    found: tuple[Found, ...] = ()
    broken: tuple[Broken, ...] = ()

    def of(self, name: str) -> list[Found]:
        """The versions of one model, oldest first."""
        return [found for found in self.found if found.manifest.name == name]


def find(path: Path) -> list[Found]:
    """Every package at `path`, by name and version.

    Raises `PackageError` when one is damaged, `StartupError` when there is none, or two have the
    same name and version.
    """
    places = _places(path)
    if not places:
        what = "has no packages in it" if path.is_dir() else "does not exist"
        raise StartupError(
            f"there is nothing to serve: '{path}' {what}.",
            hint="make a package with 'mlserve export SOURCE -o PKG'",
        )
    found: dict[tuple[str, str], Found] = {}
    for place in places:
        package = read(place)
        key = (package.manifest.name, package.manifest.version)
        if key in found:
            raise StartupError(
                _twice(found[key], place),
                hint="serve one of them, or make one again with another --name or --version",
            )
        found[key] = package
    return _sorted(found.values())


def look(path: Path, known: Mapping[Path, Found] | None = None) -> Look:
    """Every package at `path`, the damaged ones apart. Raises nothing.

    known: packages of an earlier look, by path; those that were not replaced since are not read
    again, so a look at a repository where nothing changed costs one `stat` a package.
    """
    found: dict[tuple[str, str], Found] = {}
    broken: list[Broken] = []
    for place in _places(path):
        package = None if known is None else known.get(place)
        try:
            if package is None or package.stamp != _stamp(place):
                package = read(place)
        except PackageError as error:
            broken.append(_broken(place, error.message))
            continue
        key = (package.manifest.name, package.manifest.version)
        if key in found:
            broken.append(Broken(place, *key, _twice(found[key], place)))
        else:
            found[key] = package
    return Look(tuple(_sorted(found.values())), tuple(broken))


def read(place: Path) -> Found:
    """The package in one folder, checked. Raises `PackageError`."""
    stamp = _stamp(place)  # before it is read: a change in between is seen by the next look
    manifest = manifests.read(place)
    manifests.verify_files(place, manifest)
    return Found(place, manifest, stamp)


def order(manifest: Manifest) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key under which version 10 comes after version 9, and 1.10 after 1.9."""
    return order_of(manifest.version)


def order_of(version: str) -> tuple[list[tuple[int, int, str]], str]:
    """The same for a version alone."""
    parts = re.findall(r"\d+|[^\d]+", version)
    numbers = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
    return numbers, version  # 01 and 1 are the same number, and some order is needed


def _places(path: Path) -> list[Path]:
    """The folders that hold a package."""
    if (path / MANIFEST).is_file():
        return [path]
    # Not deeper than name/version/: a home folder given by mistake is not searched.
    outer = {file.parent for file in path.glob(f"*/{MANIFEST}")}
    inner = {file.parent for file in path.glob(f"*/*/{MANIFEST}")}
    inner = {place for place in inner if place.parent not in outer}  # a package's own files
    return sorted(place for place in outer | inner if not _hidden(place, path))


def _sorted(found: Iterable[Found]) -> list[Found]:
    return sorted(found, key=lambda item: (item.manifest.name, order(item.manifest)))


def _stamp(place: Path) -> Stamp:
    try:
        status = (place / MANIFEST).stat()
    except OSError:
        return (0, 0, 0)  # it was taken away a moment ago; reading it says so
    return status.st_ino, status.st_size, status.st_mtime_ns


def _broken(place: Path, reason: str) -> Broken:
    try:
        manifest = manifests.read(place)
    except PackageError:
        # By the layout name/version/, which is all that is known of it.
        return Broken(place, place.parent.name, place.name, reason)
    return Broken(place, manifest.name, manifest.version, reason)


def _twice(first: Found, place: Path) -> str:
    manifest = first.manifest
    return f"'{first.path}' and '{place}' are both '{manifest.name}' version '{manifest.version}'."


def _hidden(place: Path, root: Path) -> bool:
    """A draft in the making, or something else that does not want to be seen."""
    return any(part.startswith(".") for part in place.relative_to(root).parts)
