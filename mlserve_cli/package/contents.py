"""What lies at a path, as a digest: the same name with other contents is another input."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import MANIFEST


def split(text: str) -> tuple[str, str]:
    """`file.py:function` → both parts, the second with its colon; anything else → (text, "")."""
    file, separator, function = text.rpartition(":")
    return (file, separator + function) if separator and file.endswith(".py") else (text, "")


def is_code(text: str) -> bool:
    """Whether it names a person's code, which may read files that nothing here sees."""
    return split(text)[0].endswith(".py")


def digest(text: str) -> str:
    """`sha256:…` of what a path, or `file.py:function`, names; "" where there is nothing.

    A package has its manifest's digest, which covers its files; another folder that of the names
    and contents of all files in it. Raises `PackageError` for a package that cannot be opened.
    """
    path = Path(split(text)[0])
    if path.is_file():
        return "sha256:" + _hashed(path)
    if not path.is_dir():
        return ""
    if (path / MANIFEST).is_file():
        return Package.open(path).manifest.digest
    found = hashlib.sha256()
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        found.update(f"{file.relative_to(path).as_posix()}\0{_hashed(file)}\0".encode())
    return "sha256:" + found.hexdigest()


def facts(parameter: str, given: Any) -> dict[str, str]:
    """For the lineage: a file by its name, wherever it lies, and the digest of what is in it; of
    an object in memory its type."""
    if not isinstance(given, (str, Path)):
        return {parameter: type(given).__name__}
    file, function = split(str(given))
    return {parameter: Path(file).name + function, f"{parameter}_digest": digest(file)}


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
