"""Whose job a remote output is: a small object beside the parts, since a store has no locks.

Two that begin at the same moment both write it, and the later one's stands; the other sees that
before its next part, and ends. So one goes on, and no part is written by two.
"""

from __future__ import annotations

import os
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mlserve_cli.errors import DataError

NAME = "_claim.json"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Which process writes.

    since: in ISO 8601, of that host's clock. started: when the process began, in the kernel's ticks
    since boot; 0 where it does not say.
    """

    id: str
    host: str
    pid: int
    since: str
    started: int = 0

    @classmethod
    def mine(cls) -> Claim:
        """A new one, of this process."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        pid = os.getpid()
        return cls(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=pid,
            since=now,
            started=_started(pid),
        )

    def yields(self, *, resume: bool, force: bool) -> bool:
        """Whether another process may have the place: this one is dead, or, as far as anybody here
        knows, may be and somebody wants to go on with its job; or the job is to begin again."""
        if force:
            return True
        if self.host != socket.gethostname():
            return resume
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it runs as another user
        # A container that is started again has the name of the one before, and its numbers too.
        now = _started(self.pid)
        return self.started != now and 0 not in (self.started, now)

    def refusal(self, target: str) -> DataError:
        """The error for a process that came later."""
        return DataError(
            f"process {self.pid} on {self.host} writes '{target}' since {self.since}.",
            hint="wait for it, or choose another name; if it is gone, --resume goes on with its "
            "job and --force begins again",
        )

    def to_json(self) -> bytes:
        """The text of the object."""
        return msgspec.json.encode(self) + b"\n"


def _started(pid: int) -> int:
    """`starttime` of proc(5): no two processes have it and the number in common."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(stat.rpartition(b")")[2].split()[19])


def read(text: bytes | None) -> Claim | None:
    """The claim that stands there; None where none does, or nothing that could be one."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Claim)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
