"""A folder for what is being made, held by a lock for as long as its process lives.

A killed process cannot sweep up after itself. Its lock goes with it, however it ended, so whoever
makes such a folder next removes those that none holds, and never one that is in use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_ATTEMPTS = 3
"""A folder that is not locked yet may be swept up; not three times in a row."""


@contextlib.contextmanager
def folder(base: Path, prefix: str, suffix: str = "") -> Iterator[Path]:
    """A new folder in `base` until the block ends; those of dead processes with these names go.

    A disk or a system that knows no such locks has the folder, and nothing is swept. Raises
    `OSError` where it cannot be made.
    """
    _sweep(base, prefix, suffix)
    place, lock = _made(base, prefix, suffix)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _made(base: Path, prefix: str, suffix: str) -> tuple[Path, int | None]:
    """A new folder, and the descriptor whose lock is on it until this process ends."""
    for _ in range(_ATTEMPTS):
        place = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=base))
        lock = _locked(place)
        if lock is not None and place.is_dir():
            return place, lock
        if lock is not None:
            os.close(lock)
        with contextlib.suppress(OSError):
            place.rmdir()
    return Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=base)), None


def _sweep(base: Path, prefix: str, suffix: str) -> None:
    """Remove the folders of processes that are no more."""
    for place in base.iterdir():
        if place.name.startswith(prefix) and place.name.endswith(suffix):
            lock = _locked(place)
            if lock is not None:
                shutil.rmtree(place, ignore_errors=True)
                os.close(lock)


def _locked(place: Path) -> int | None:
    """A descriptor with the lock of a folder of this user; None where another process has it."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    try:
        found = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(found).st_uid == os.geteuid():
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return found
    except OSError:
        pass
    os.close(found)
    return None
