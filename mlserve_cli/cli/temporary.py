"""Where the temporary files of a step lie: in one folder a process, held by a lock.

All that `tempfile` makes falls into it, ours and that of libraries. A killed process cannot sweep
it up; its lock goes with it, and whatever step starts next removes the folders that none holds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "mlserve-process-"

_ATTEMPTS = 3
"""A folder that is not locked yet may be swept up; not three times in a row."""


@contextlib.contextmanager
def folder() -> Iterator[None]:
    """For as long as the block runs, `tempfile` writes into a folder of this process.

    Where no folder can be made, or none be locked, `tempfile` goes on as before.
    """
    with contextlib.suppress(OSError):
        _sweep(Path(tempfile.gettempdir()))
    held = _hold()
    if held is None:
        yield
        return
    place, lock = held
    before = tempfile.tempdir
    tempfile.tempdir = str(place)
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def _hold() -> tuple[Path, int] | None:
    """A new folder, and the descriptor whose lock is on it until this process ends."""
    for _ in range(_ATTEMPTS):
        try:
            place = Path(tempfile.mkdtemp(prefix=PREFIX))
        except OSError:  # a full disk: what really needs room will say so
            return None
        lock = _locked(place)
        if lock is not None and place.is_dir():
            return place, lock
        if lock is not None:
            os.close(lock)
        with contextlib.suppress(OSError):
            place.rmdir()
    return None


def _sweep(base: Path) -> None:
    """Remove the folders of processes that are no more."""
    for place in base.glob(f"{PREFIX}*"):
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
