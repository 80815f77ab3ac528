"""Changes to what is loaded: one after another, and each to its end.

Every change is a task of its own, so that a client that hangs up does not leave half of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .errors import Stopping


class Changes:
    """The changes of one server. It lives on the event loop.

    done: called after each, whatever became of it.
    """

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def make(self, work: Coroutine[Any, Any, None]) -> None:
        """Make a change when its turn comes, also when nobody waits for it any more.

        Raises what it raises, and `Stopping` once there are to be no more.
        """
        if self._closed:
            work.close()
            raise _stopping()

        async def in_turn() -> None:
            try:
                async with self._turn:
                    if self._closed:
                        raise _stopping()
                    await work
            finally:
                work.close()

        task = asyncio.create_task(in_turn())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Begin no more, and wait for the one that is being made."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._done()
        if not task.cancelled():
            task.exception()  # whoever asked may be gone; then nobody else takes it


def _stopping() -> Stopping:
    return Stopping("the server is shutting down", retry_after_s=1)
