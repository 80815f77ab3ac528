"""A place of answers on this machine's disks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mlserve_cli.errors import DataError
from mlserve_cli.predict.job import MANIFEST
from mlserve_cli.predict.place import TEMPORARY, is_ours, writing


class LocalPlace:
    """On this machine's disks; a draft is renamed when it is whole and on the disk."""

    def __init__(self, target: str, *, folder: bool) -> None:
        self.target = target
        self.folder = folder
        path = Path(target.rstrip("/")) if folder else Path(target)
        self._final = path
        self._rejects = path.parent / f"{path.name}.rejects.jsonl"
        self._remembered = path.parent / f".{path.name}.job.json"
        self._state = path if folder else path.parent / f".{path.name}.parts"
        self._lock: int | None = None
        self._made = False

    def is_taken(self) -> bool:
        """Whether the file is there, or the folder with anything in it."""
        if self.folder:
            return self._final.exists() and (
                not self._final.is_dir() or any(map(_is_whole, self._final.iterdir()))
            )
        return self._final.exists()

    def begin(self, *, resume: bool = False, force: bool = False) -> None:
        """Make the folder of the parts, and keep others from it; the dead hold no lock.

        Raises `DataError` for a device or a pipe: a file would be put in its place, and /dev/null
        be gone.
        """
        if self._final.exists() and not (self._final.is_file() or self._final.is_dir()):
            raise DataError(
                f"'{self.target}' is a device or a pipe, and answers are put in place as a file.",
                hint="-o - writes them to standard output",
            )
        with writing(self.target):
            if not self._final.parent.is_dir():
                raise FileNotFoundError(2, os.strerror(2))
            self._made = not self._state.exists()
            self._state.mkdir(exist_ok=True)
            self._hold()
            for draft in self._state.glob(f"_*{TEMPORARY}"):
                draft.unlink()

    def _hold(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        if self._lock is not None:
            return
        self._lock = os.open(self._state, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = None
            raise DataError(
                f"another process writes '{self.target}' at this moment.",
                hint="wait for it, or choose another name",
            ) from None

    def clear(self) -> None:
        """Remove the parts; a file that is replaced stays until the new one is whole."""
        # The manifest goes first: parts without it are no job that could go on.
        self.remove(MANIFEST)
        with writing(self.target):
            for file in self._state.iterdir():
                if not self.folder or is_ours(file.name):
                    file.unlink()

    def read(self, name: str) -> bytes | None:
        """The content of a file beside the parts."""
        try:
            return (self._state / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write by way of a draft."""
        with writing(self.target):
            self.draft(name).write_bytes(content)
            self.publish(name)

    def draft(self, name: str) -> Path:
        """Beside its place, on the same disk."""
        return self._state / f"_{name}{TEMPORARY}"

    def publish(self, name: str) -> None:
        """Rename, after the content is on the disk."""
        with writing(self.target):
            draft = self.draft(name)
            _flush(draft)
            draft.replace(self._state / name)

    def remove(self, name: str) -> None:
        """Unlink."""
        with contextlib.suppress(OSError):
            (self._state / name).unlink()

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Where it lies."""
        yield self._state / name

    def deliver(self, name: str | None, rejects: str | None) -> None:
        """Rename into place."""
        with writing(self.target):
            if rejects is not None:
                (self._state / rejects).replace(self._rejects)
            else:
                self._rejects.unlink(missing_ok=True)
            if name is not None:
                (self._state / name).replace(self._final)
        if not self.folder:
            self.clear()
            self._state.rmdir()

    def remember(self, content: bytes) -> None:
        """In a hidden file, which readers of a folder pass over."""
        with writing(self.target):
            draft = self._remembered.with_name(f"{self._remembered.name}{TEMPORARY}")
            draft.write_bytes(content)
            draft.replace(self._remembered)

    def recall(self) -> bytes | None:
        """The content of that file."""
        try:
            return self._remembered.read_bytes()
        except OSError:
            return None

    def rejects(self) -> str:
        """A path."""
        return str(self._rejects)

    def rejected(self) -> int:
        """Of the file beside the output."""
        try:
            with self._rejects.open("rb") as file:
                return sum(1 for _ in file)
        except OSError:
            return 0

    def abandon(self) -> None:
        """Remove the parts, and their folder unless it was there before."""
        with contextlib.suppress(OSError, DataError):
            self.clear()
            if self._made or not self.folder:
                self._state.rmdir()

    def close(self) -> None:
        """Let the lock go."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _is_whole(path: Path) -> bool:
    """Whether it is more than a draft that somebody who was killed left."""
    return not (path.name.startswith("_") and path.name.endswith(TEMPORARY))


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
