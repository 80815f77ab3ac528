"""What lies on disk: one package, packages side by side, or `name/version/` folders of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from . import manifest as manifests
from .errors import StartupError
from .manifest import MANIFEST, Manifest


@dataclass(frozen=True, slots=True)
class Found:
    """A package on disk whose manifest and served files are whole."""

    path: Path
    manifest: Manifest


def find(path: Path) -> list[Found]:
    """Every package at `path`, by name and version.

    Raises `PackageError` when one is damaged, `StartupError` when there is none, or two have the
    same name and version.
    """
    if (path / MANIFEST).is_file():
        places = [path]
    else:
        # Not deeper than name/version/: a home folder given by mistake is not searched.
        outer = {file.parent for file in path.glob(f"*/{MANIFEST}")}
        inner = {file.parent for file in path.glob(f"*/*/{MANIFEST}")}
        inner = {place for place in inner if place.parent not in outer}  # a package's own files
        places = sorted(place for place in outer | inner if not _hidden(place, path))
    if not places:
        what = "has no packages in it" if path.is_dir() else "does not exist"
        raise StartupError(
            f"there is nothing to serve: '{path}' {what}.",
            hint="make a package with 'mlserve export SOURCE -o PKG'",
        )
    found: dict[tuple[str, str], Found] = {}
    for place in places:
        manifest = manifests.read(place)
        manifests.verify_files(place, manifest)
        key = (manifest.name, manifest.version)
        if key in found:
            raise StartupError(
                f"'{found[key].path}' and '{place}' are both '{key[0]}' version '{key[1]}'.",
                hint="serve one of them, or make one again with another --name or --version",
            )
        found[key] = Found(place, manifest)
    return sorted(found.values(), key=lambda item: (item.manifest.name, order(item.manifest)))


def order(manifest: Manifest) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key under which version 10 comes after version 9, and 1.10 after 1.9."""
    parts = re.findall(r"\d+|[^\d]+", manifest.version)
    numbers = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
    return numbers, manifest.version  # 01 and 1 are the same number, and some order is needed


def _hidden(place: Path, root: Path) -> bool:
    """A draft in the making, or something else that does not want to be seen."""
    return any(part.startswith(".") for part in place.relative_to(root).parts)
