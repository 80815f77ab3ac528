"""Where the output goes: a folder of parts, or one file that is put together beside its place.

answers/                 a folder that stays: part-00000.parquet …, _manifest.json
answers.csv              one file; until it is whole, its parts lie in .answers.csv.parts/
.answers.csv.job.json    of which job the file is: what a folder's manifest says
answers.csv.rejects.jsonl, answers.rejects.jsonl    rows that got no answer, if there are any
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from mlserve_cli.errors import DataError, MlserveError, first_line, without_secrets
from mlserve_cli.predict import claim, location
from mlserve_cli.predict.claim import Claim
from mlserve_cli.predict.job import MANIFEST

TEMPORARY = ".tmp"


class Place(Protocol):
    """The files of a job, by their names. What is read here was written whole."""

    target: str
    folder: bool

    def is_taken(self) -> bool:
        """Whether something stands where the result will be; a folder's unfinished job, too."""
        ...

    def begin(self, *, resume: bool = False, force: bool = False) -> None:
        """Make room for the parts, and keep other processes from it. Raises `DataError`.

        resume, force: what was asked for, which decides whose place may be taken over.
        """
        ...

    def clear(self) -> None:
        """Take away an unfinished job, and a folder's parts that are to be replaced."""
        ...

    def read(self, name: str) -> bytes | None:
        """The content, None if there is no such file."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write at once, in place of what was there."""
        ...

    def draft(self, name: str) -> Path:
        """A local path to write a file at, before it is published under `name`."""
        ...

    def publish(self, name: str) -> None:
        """Put the draft of that name in its place."""
        ...

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        ...

    def local(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A local path to read a published file at."""
        ...

    def deliver(self, name: str | None, rejects: str | None) -> None:
        """Put the drafts (or published files) of these names where the result belongs, and leave
        nothing else; name is None for a folder, rejects where there are none."""
        ...

    def remember(self, content: bytes) -> None:
        """Keep beside a single file what job it is of; a folder has its manifest."""
        ...

    def recall(self) -> bytes | None:
        """What was kept, None where nothing was."""
        ...

    def rejects(self) -> str:
        """What the file of rejects is called."""
        ...

    def rejected(self) -> int:
        """The lines that it has, 0 where there is none."""
        ...

    def abandon(self) -> None:
        """Take away what began and holds nothing worth going on with."""
        ...

    def close(self) -> None:
        """Let others go on with the job."""
        ...


def find(target: str, *, folder: bool) -> Place:
    """The place that `--output` names. Raises `DataError`."""
    target = location.local(target)
    if location.is_url(target):
        return RemotePlace(target, folder=folder)
    return LocalPlace(target, folder=folder)


@contextlib.contextmanager
def writing(target: str) -> Iterator[None]:
    """Turn what a full disk or a store raises into a sentence."""
    try:
        yield
    except MlserveError:
        raise
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise DataError(
            f"'{target}' cannot be written: {reason}.",
            hint="make the folder first"
            if isinstance(error, FileNotFoundError)
            else "the parts that are whole stay; the same command with --resume goes on",
        ) from error


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
                if not self.folder or _is_ours(file.name):
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


class RemotePlace:
    """Behind an fsspec URL; a draft is written here and uploaded when it is whole.

    Stores such as S3 show an object only when all of it arrived. Where one does not, a part that
    is half there does not stand in the manifest, and is written again.
    """

    def __init__(self, target: str, *, folder: bool) -> None:
        self.target = without_secrets(target)
        self.folder = folder
        self._system, path = location.file_system(target)
        self._final = path.rstrip("/")
        parent, _, name = self._final.rpartition("/")
        self._state = self._final if folder else f"{parent}/.{name}.parts"
        self._remembered = f"{parent}/.{name}.job.json"
        self._drafts = Path(tempfile.mkdtemp(prefix="mlserve-predict-"))
        self._claim: Claim | None = None

    def is_taken(self) -> bool:
        """Whether anything lies there."""
        with self._reaching():
            if self.folder:
                held = self._system.find(self._final)
                return any(not path.endswith(f"/{claim.NAME}") for path in held)
            return bool(self._system.isfile(self._final))

    def begin(self, *, resume: bool = False, force: bool = False) -> None:
        """Claim the place; folders are parts of names, and have to be made on few systems."""
        if self._claim is not None:
            return
        with self._reaching(), contextlib.suppress(NotImplementedError):
            self._system.makedirs(self._state, exist_ok=True)
        before = claim.read(self.read(claim.NAME))
        if before is not None and not before.yields(resume=resume, force=force):
            raise before.refusal(self.target)
        self._claim = Claim.mine()
        self.write(claim.NAME, self._claim.to_json())
        self._check_claim()

    def _check_claim(self) -> None:
        """Raises `DataError` where another process has taken the place over."""
        now = claim.read(self.read(claim.NAME))
        if self._claim is not None and now is not None and now.id != self._claim.id:
            self._claim = None
            raise now.refusal(self.target)

    def clear(self) -> None:
        """Remove the parts."""
        self.remove(MANIFEST)
        with self._reaching():
            self._remove_ours()
        if self._claim is not None:
            self.write(claim.NAME, self._claim.to_json())

    def read(self, name: str) -> bytes | None:
        """The content of an object."""
        with self._reaching():
            try:
                content: bytes = self._system.cat_file(f"{self._state}/{name}")
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        """Put an object."""
        with self._reaching():
            self._system.pipe_file(f"{self._state}/{name}", content)

    def draft(self, name: str) -> Path:
        """In a folder of our own on this machine."""
        return self._drafts / name

    def publish(self, name: str) -> None:
        """Upload."""
        self._check_claim()
        with self._reaching():
            self._system.put_file(str(self.draft(name)), f"{self._state}/{name}")
            self.draft(name).unlink()

    def remove(self, name: str) -> None:
        """Delete an object."""
        with contextlib.suppress(Exception):
            self._system.rm_file(f"{self._state}/{name}")

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A copy for as long as the block runs."""
        copy = self._drafts / f"copy-{name}"
        with self._reaching():
            self._system.get_file(f"{self._state}/{name}", str(copy))
        try:
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def deliver(self, name: str | None, rejects: str | None) -> None:
        """Copy within the store, then remove the parts."""
        self._check_claim()
        with self._reaching():
            if rejects is not None:
                self._system.copy(f"{self._state}/{rejects}", self._path_of_rejects())
                self._system.rm_file(f"{self._state}/{rejects}")
            elif self._system.exists(self._path_of_rejects()):
                self._system.rm_file(self._path_of_rejects())
            if name is not None:
                self._system.copy(f"{self._state}/{name}", self._final)
        if not self.folder:
            self._claim = None  # it goes with the parts
            self.clear()

    def remember(self, content: bytes) -> None:
        """In an object beside the output."""
        with self._reaching():
            self._system.pipe_file(self._remembered, content)

    def recall(self) -> bytes | None:
        """The content of that object."""
        with self._reaching():
            try:
                content: bytes = self._system.cat_file(self._remembered)
            except FileNotFoundError:
                return None
            return content

    def rejects(self) -> str:
        """A URL."""
        return f"{self.target.rstrip('/')}.rejects.jsonl"

    def rejected(self) -> int:
        """Of the object beside the output."""
        with self._reaching():
            try:
                with self._system.open(self._path_of_rejects(), "rb") as file:
                    return sum(1 for _ in file)
            except FileNotFoundError:
                return 0

    def _path_of_rejects(self) -> str:
        return f"{self._final}.rejects.jsonl"

    def abandon(self) -> None:
        """Remove what was uploaded; what lies there is another's where the claim is."""
        with contextlib.suppress(Exception):
            self._check_claim()
            if self._claim is not None:
                self._claim = None
                self._remove_ours()

    def _remove_ours(self) -> None:
        """What a job wrote, and the folder of a file's parts."""
        if not self._system.exists(self._state):
            return
        if not self.folder:
            self._system.rm(self._state, recursive=True)
            return
        for path in self._system.ls(self._state, detail=False):
            if _is_ours(path.rstrip("/").rpartition("/")[2]):
                self._system.rm_file(path)

    def close(self) -> None:
        """Remove the drafts, and the claim."""
        if self._claim is not None:
            with contextlib.suppress(DataError):
                self._check_claim()
                self.remove(claim.NAME)
        shutil.rmtree(self._drafts, ignore_errors=True)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except MlserveError:
            raise
        except Exception as error:  # each file system has its own
            raise DataError(
                f"'{self.target}' cannot be reached: {first_line(error)}.",
                hint="the parts that are whole stay; the same command with --resume goes on",
            ) from error


_OURS = re.compile(
    r"part-\d{5,}\.[a-z]+|whole\.[a-z]+|_manifest\.json|_.*rejects\.jsonl|_claim\.json|_.*\.tmp"
)


def _is_ours(name: str) -> bool:
    """Whether a job writes files of that name: what else lies in a folder of answers stays."""
    return _OURS.fullmatch(name) is not None


def _is_whole(path: Path) -> bool:
    """Whether it is more than a draft that somebody who was killed left."""
    return not (path.name.startswith("_") and path.name.endswith(TEMPORARY))


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
