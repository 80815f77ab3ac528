"""A place of answers behind an fsspec URL."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlserve_cli.errors import DataError, MlserveError, first_line, without_secrets
from mlserve_cli.predict import claim, location
from mlserve_cli.predict.claim import Claim
from mlserve_cli.predict.job import MANIFEST
from mlserve_cli.predict.place import is_ours


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
            if is_ours(path.rstrip("/").rpartition("/")[2]):
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
