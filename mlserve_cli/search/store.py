"""Every trial of a search in a local SQLite file: killed at any point, it goes on where it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from mlserve_cli.errors import MlserveError, first_line
from mlserve_cli.search.trial import Trial

SCHEMA = 1

_TABLE = """
create table if not exists trials (
    number integer primary key,
    question text not null,
    key text not null,
    document text not null,
    unique (question, key)
)
"""


class StoreError(MlserveError):
    """The file of trials cannot be read or written."""


class Store:
    """The trials that answer one question.

    question: what they were measured for and on, as a text: another model, other data, another
    machine or another goal is another question, whose trials say nothing here.
    """

    def __init__(self, path: Path, question: str) -> None:
        self._path = path
        self._question = question
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            (version,) = self._db.execute("pragma user_version").fetchone()
            if version not in (0, SCHEMA):
                raise StoreError(
                    f"'{path}' was written by a newer mlserve: its schema is {version}, "
                    f"and {SCHEMA} is known.",
                    hint="move it away, or use the newer one",
                )
            self._db.execute(_TABLE)
            self._db.execute(f"pragma user_version = {SCHEMA}")
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"'{path}' cannot be used for the trials: {error}.",
                hint="it must be a file of an earlier search, or none",
            ) from error

    def find(self, key: str) -> Trial | None:
        """The trial of that candidate, if it was made."""
        found = self._execute(
            "select document from trials where question = ? and key = ?", (self._question, key)
        )
        return self._read(found[0][0]) if found else None

    def put(self, trial: Trial) -> None:
        """Keep a trial; it is on the disk when this returns."""
        self._execute(
            "insert into trials (question, key, document) values (?, ?, ?) "
            "on conflict (question, key) do update set document = excluded.document",
            (self._question, trial.key, msgspec.json.encode(trial).decode()),
        )

    def trials(self) -> list[Trial]:
        """All of them, in the order that they were made in."""
        found = self._execute(
            "select document from trials where question = ? order by number", (self._question,)
        )
        return [self._read(document) for (document,) in found]

    def forget(self) -> None:
        """Drop what answers this question; other questions keep theirs."""
        self._execute("delete from trials where question = ?", (self._question,))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _read(self, document: str) -> Trial:
        try:
            return msgspec.json.decode(document, type=Trial)
        except (msgspec.MsgspecError, TypeError) as error:
            raise StoreError(
                f"'{self._path}' holds a trial that cannot be read: {first_line(error)}.",
                hint="search again without --resume, or move the file away",
            ) from error

    def _execute(self, statement: str, values: tuple[str, ...]) -> list[tuple[str]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(
                f"'{self._path}' cannot be used for the trials: {error}.",
                hint="free some space, or move the file away",
            ) from error
