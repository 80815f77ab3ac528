"""Where the output goes: a folder of parts, or one file that is put together beside its place.

answers/                 a folder that stays: part-00000.parquet …, _manifest.json
answers.csv              one file; until it is whole, its parts lie in .answers.csv.parts/
.answers.csv.job.json    of which job the file is: what a folder's manifest says
answers.csv.rejects.jsonl, answers.rejects.jsonl    rows that got no answer, if there are any
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from mlserve_cli.errors import DataError, MlserveError, first_line
from mlserve_cli.predict import location

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
    from mlserve_cli.predict.local_place import LocalPlace
    from mlserve_cli.predict.remote_place import RemotePlace

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


_OURS = re.compile(
    r"part-\d{5,}\.[a-z]+|whole\.[a-z]+|_manifest\.json|_.*rejects\.jsonl|_claim\.json|_.*\.tmp"
)


def is_ours(name: str) -> bool:
    """Whether a job writes files of that name: what else lies in a folder of answers stays."""
    return _OURS.fullmatch(name) is not None
