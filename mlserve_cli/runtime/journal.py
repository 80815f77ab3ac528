"""Where operations are kept: the state for the next start, the audit log for people.

Both are files, and a disk may take its time, so they are written on a thread of their own, one
after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import audit, state
from .audit import AuditLog, Entry
from .errors import MlserveError
from .manifest import MANIFEST
from .state import State, StateFile

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of a key, and where from."""

    name: str = "anonymous"
    address: str | None = None


@dataclass(slots=True)
class Record:
    """What became of one operation."""

    kept: bool = False  # it holds after a restart as well
    version: str | None = None  # which one was meant, as soon as that is known


class Journal:
    """The state and the audit log of one server. The constructor only stores.

    folder: where both are; None keeps the state in memory, and audits to the server's log alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self.state = State()
        self._file = StateFile(folder / state.FILE if folder else None)
        self._audit = AuditLog(folder / audit.FILE if folder else None)
        self._disk: ThreadPoolExecutor | None = None  # one thread: writes stay in order

    async def open(self) -> None:
        """Read what an earlier process kept."""
        self.state = await self._on_disk(self._file.read)

    async def entries(self, limit: int) -> list[dict[str, Any]]:
        """The last entries of the audit log, oldest first."""
        return await self._on_disk(lambda: self._audit.entries(limit))

    def close(self) -> None:
        """Write down what is still to be written, and end the thread."""
        if self._disk is not None:
            self._disk.shutdown(wait=True)
            self._disk = None

    @asynccontextmanager
    async def recorded(
        self,
        action: str,
        model: str,
        version: str | None,
        caller: Caller,
        facts: Callable[[], Any],
    ) -> AsyncIterator[Record]:
        """Run one operation, then keep and record it; a failure is recorded too, and raised.

        facts: what is to be seen of the model, asked before and after.
        """
        record = Record(version=version)
        before = facts()
        outcome = "done"
        try:
            yield record
        except MlserveError as error:
            outcome = error.message
            raise
        except BaseException as error:
            outcome = f"failed: {type(error).__name__}"
            raise
        finally:
            entry = Entry(
                time=audit.now(),
                who=caller.name,
                address=caller.address,
                action=action,
                model=model,
                version=record.version,
                before=before,
                after=facts(),
                outcome=outcome,
            )
            text = self.state.to_json()  # now: the next operation may change it meanwhile
            record.kept = await self._on_disk(lambda: self._write(entry, text))

    def _write(self, entry: Entry, text: bytes) -> bool:
        kept = self._file.write(text)
        self._audit.append(entry)
        return kept

    async def _on_disk(self, work: Callable[[], T]) -> T:
        if self._disk is None:
            self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)


def folder_of(setting: str, root: Path) -> Path | None:
    """Where a server keeps its state; None where it has no folder of its own for it.

    That is so when the setting is empty, or when `root` is a package: nothing is written into one.
    """
    if not setting or (root / MANIFEST).is_file():
        return None
    return root / setting
