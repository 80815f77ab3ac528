"""What a job is and how far it came: `_manifest.json` beside the parts of its output.

A part is a run of rows of the input, in their order. It is written whole, and stands here only
afterwards: whoever is killed goes on after the last one that does.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mlserve_cli.errors import DataError

MANIFEST = "_manifest.json"
"""Readers of a folder of Parquet files pass over names that begin with an underscore."""

SCHEMA = 1


class InputRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was read, and what tells that it changed since."""

    name: str
    size: int
    stamp: str


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where to read on: in which file, before which of its rows (from 0), at which byte of it."""

    file: int = 0
    row: int = 0
    offset: int = 0


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part that is written.

    file: its name, None where every row of it was rejected. rows: answered ones. rejects: the name
    of the file with the reasons, None where there are none. after: where the next part begins.
    """

    file: str | None
    rows: int
    rejected: int
    size: int
    sha256: str
    rejects: str | None
    after: Position


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The whole manifest. All but `columns`, `parts` and `done` is settled at the start.

    package: the digest. kind: how the input is read. format: of the parts. batch: the most rows of
    one run of the engine. block: rows that are read and prepared at once, a multiple of it.
    part: the fewest rows of a part, but of the last. columns: of the answers; of CSV their names,
    of Parquet and Arrow the schema in base64.
    """

    schema: int = SCHEMA
    package: str
    model: str
    version: str
    inputs: tuple[InputRecord, ...]
    kind: str
    format: str
    mapping: dict[str, tuple[str, ...]]
    keep: tuple[str, ...]
    batch: int
    block: int
    part: int
    threads: int
    columns: tuple[str, ...] | str | None = None
    parts: tuple[Part, ...] = ()
    done: bool = False

    @property
    def rows(self) -> int:
        """Rows that were answered."""
        return sum(part.rows for part in self.parts)

    @property
    def rejected(self) -> int:
        """Rows that were not."""
        return sum(part.rejected for part in self.parts)

    @property
    def next(self) -> Position:
        """Where the next part begins."""
        return self.parts[-1].after if self.parts else Position()

    def to_json(self) -> bytes:
        """The text of the manifest."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read(text: bytes, name: str) -> Job:
    """The job that a manifest describes. Raises `DataError` when it is no such file."""
    try:
        job = msgspec.json.decode(text, type=Job)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"'{name}' is no manifest of a job: {error}.", hint="begin again with --force"
        ) from error
    named = [file for part in job.parts for file in (part.file, part.rejects) if file is not None]
    if any(file == ".." or Path(file).name != file for file in named):
        raise DataError(
            f"'{name}' is no manifest of a job: it names files of other folders.",
            hint="begin again with --force",
        )
    if job.schema > SCHEMA:
        raise DataError(f"'{name}' was written by a newer mlserve.", hint="upgrade mlserve")
    return job


def check_same(job: Job, wanted: Job, name: str) -> None:
    """Refuse to go on with another job than the one that began. Raises `DataError`."""
    again = "give the same command as before, or begin again with --force"
    if job.package != wanted.package:
        raise DataError(
            f"the job in '{name}' began with another package: {job.model} {job.version}, digest "
            f"{job.package[:19]}….",
            hint=again,
        )
    before = {record.name: record for record in job.inputs}
    now = {record.name: record for record in wanted.inputs}
    for input_name, record in now.items():
        if input_name in before and before[input_name] != record:
            raise DataError(
                f"'{input_name}' was changed since the job in '{name}' began.",
                hint="its answers would be of two inputs; begin again with --force",
            )
    if list(before) != list(now):
        raise DataError(f"the job in '{name}' began with other inputs.", hint=again)
    for field in ("kind", "format", "mapping", "keep"):
        if getattr(job, field) != getattr(wanted, field):
            raise DataError(f"the job in '{name}' began with another {_CALLED[field]}.", hint=again)


_CALLED = {"kind": "kind of input", "format": "format", "mapping": "--map", "keep": "--keep"}
