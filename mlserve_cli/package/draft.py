"""A package in the making: written to a hidden folder beside its place, renamed when it is whole.

A crash leaves no package at all; a full disk, Ctrl-C or SIGTERM not even the hidden folder; and
what `kill -9` leaves goes when the next one is written to the same place.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mlserve_cli.errors import MlserveError, PackageError
from mlserve_cli.package import scratch
from mlserve_cli.runtime.manifest import EVIDENCE, MANIFEST, SERVE, SOURCE, FileEntry, Manifest


class Draft:
    """The folder that a step writes into. `seal` makes it a package."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.serve = path / SERVE
        self.source = path / SOURCE
        self.evidence = path / EVIDENCE
        self.manifest: Manifest | None = None
        self.serve.mkdir(parents=True)

    def seal(self, manifest: Manifest) -> Manifest:
        """Hash every file of `serve/` and `source/`, write manifest.json, return it sealed."""
        files = {
            path.relative_to(self.path).as_posix(): _entry(path)
            for folder in (self.serve, self.source)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        sealed = msgspec.structs.replace(manifest, files=files).sealed()
        (self.path / MANIFEST).write_bytes(sealed.to_json())
        self.manifest = sealed
        return sealed


def check_target(target: Path, *, overwrite: bool = False) -> None:
    """Refuse a place that is taken, or that is no package and so not ours to replace."""
    if not (target.exists() or target.is_symlink()):
        return
    if not overwrite:
        raise PackageError(
            f"'{target}' exists already.", hint="choose another place, or add --force"
        )
    if not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise PackageError(
            f"'{target}' is not a package, so --force does not replace it.",
            hint="choose another place",
        )


def check_apart(target: Path, source: Path) -> None:
    """Refuse to write over what `target` is made from, or into it."""
    place, origin = target.resolve(), source.resolve()
    if place == origin:
        raise PackageError(
            f"'{target}' is what it would be made from, and replacing it would lose that.",
            hint="choose another place",
        )
    if origin in place.parents and (origin / MANIFEST).is_file():
        raise PackageError(
            f"'{target}' lies inside the package '{source}'.", hint="choose a place outside of it"
        )


HELD = ".making"
"""How the names of folders end that a writer holds by a lock; without a lock it is `.part`."""


@contextmanager
def create(target: Path, *, overwrite: bool = False) -> Iterator[Draft]:
    """Yield a draft; when the block ends well and the draft is sealed, rename it to `target`.

    Raises `PackageError` when the place is taken or cannot be written.
    """
    check_target(target, overwrite=overwrite)
    with writing(target), hidden_beside(target) as hidden:
        draft = Draft(hidden)
        yield draft
        if draft.manifest is None:
            raise RuntimeError("a draft was left unsealed")
        flush(hidden)
        move(hidden, target)


@contextmanager
def hidden_beside(target: Path) -> Iterator[Path]:
    """A place for what is being made, on the disk of `target`; what is left there is swept up.

    The place may become a file or a folder. It lies in a folder that is held by a lock; where that
    of `target` is not there yet, it may be made with the place, and there is no lock.
    """
    if target.parent.is_dir():
        with contextlib.ExitStack() as stack:
            with writing(target):
                held = stack.enter_context(scratch.folder(target.parent, f".{target.name}.", HELD))
            yield held / target.name
        return
    hidden = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    try:
        yield hidden
    finally:
        if hidden.is_dir():
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            # A disk that takes no writes takes no removal either, and has nothing to remove.
            with contextlib.suppress(OSError):
                hidden.unlink()


def move(source: Path, target: Path) -> None:
    """Put a folder in its place; what was there goes only after the new one is there."""
    if target.exists():
        old = target.parent / f".{target.name}.{secrets.token_hex(4)}.old"
        target.rename(old)
        source.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        source.rename(target)


def copy(source: Path, target: Path) -> None:
    """A whole package once more at `target`; what was there goes when the copy is on the disk."""
    with writing(target), hidden_beside(target) as hidden:
        shutil.copytree(source, hidden)
        flush(hidden)
        move(hidden, target)


def sweep(target: Path) -> None:
    """Remove what writers of `target` left beside it that were killed; none may be at work."""
    name = glob.escape(target.name)
    for end in ("part", HELD.removeprefix("."), "old"):
        for left in target.parent.glob(f".{name}.????????.{end}"):
            if end == "old" and not target.exists():
                left.rename(target)  # killed between the two renames of `move`
            elif left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    left.unlink()


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an OSError while writing `target` into a sentence."""
    try:
        yield
    except MlserveError:
        raise
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "check the folder's permissions")
        raise PackageError(
            f"'{target}' cannot be written: {error.strerror or error}.", hint=hint
        ) from error


def flush(folder: Path) -> None:
    """Bring the files to the disk before the rename makes them visible."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(
            size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )


_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk; nothing was left behind",
    errno.EDQUOT: "free some space, or write to another disk; nothing was left behind",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or write to another disk",
    errno.ENOENT: "make the folder first",
    errno.ENOTDIR: "a file stands where a folder should",
    errno.EROFS: "write to another disk: this one takes no writes",
}
