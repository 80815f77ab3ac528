"""Who changed what about a running server, and when: one JSON object a line, only ever appended.

{"time": "2026-01-31T12:00:00.123Z", "who": "ci", "address": "10.0.0.7", "action": "promote",
 "model": "iris", "version": "2", "before": {…}, "after": {…}, "outcome": "done"}
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from .monitoring import logs

log = logging.getLogger(f"{logs.NAME}.audit")

FILE = "audit.jsonl"

_TAIL_BYTES = 1 << 20  # enough for some thousands of entries; the file may be years long


class Entry(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One thing that somebody did, or tried to do."""

    time: str
    who: str  # the name of the key; "anonymous" where the server asks for none
    action: str
    model: str
    version: str | None = None
    address: str | None = None  # where the request came from
    before: Any = None
    after: Any = None
    outcome: str = ""  # "done", or the sentence of the error


class AuditLog:
    """The file of entries. Without a path, they go to the server's log alone."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def append(self, entry: Entry) -> bool:
        """Write an entry and bring it to the disk → whether that was done. Never raises.

        The file is opened for each entry, so that it may be moved away at any time.
        """
        subject = f"{entry.model} {entry.version}" if entry.version else entry.model
        log.info("%s: %s %s: %s", entry.who, entry.action, subject, entry.outcome)
        if self.path is None:
            return False
        try:
            _append(self.path, msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            log.warning("the audit log '%s' cannot be written: %s", self.path, error.strerror)
            return False
        return True

    def entries(self, limit: int) -> list[dict[str, Any]]:
        """The last `limit` entries, oldest first. Lines that a crash cut short are left out."""
        return list(self._read())[-limit:] if limit > 0 else []

    def _read(self) -> Iterator[dict[str, Any]]:
        if self.path is None:
            return
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                lines = file.read().split(b"\n")
        except OSError:
            return
        for line in lines:
            try:
                found = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if isinstance(found, dict):
                yield found


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Owner only: it names people, keys and addresses.
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line  # a crash left half a line, which must not swallow this one
        if os.write(file, line) < len(line):  # the rest found no room
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file)
    finally:
        os.close(file)


def now() -> str:
    """The time as an entry writes it, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
