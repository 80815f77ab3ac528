"""Threads for work that would hold the event loop up, shared fairly by those who use them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import DeadlineExceeded, contained

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    deadline: float | None


class Threads:
    """A few threads; each user (a model) has a queue, and the queues take turns.

    The event loop owns the queues: a thread gets a job when it is free, not before.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._count = count
        self._queues: dict[Hashable, deque[_Job]] = {}  # in the order of their turns
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, user: Hashable, work: Callable[[], T], deadline: float | None = None) -> T:
        """Run `work` on a thread. Raises what it raises, and `DeadlineExceeded` if it is too late.

        Whoever is cancelled here before a thread began gives up the turn.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, loop.create_future(), deadline)
        if self._free:
            self._begin(loop, job)
        else:
            self._queues.setdefault(user, deque()).append(job)
        found: T = await job.future
        return found

    def close(self) -> None:
        """End the threads; who waits for a turn is cancelled."""
        for queue in self._queues.values():
            for job in queue:
                job.future.cancel()
        self._queues.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        self._free = self._count

    def _begin(self, loop: asyncio.AbstractEventLoop, job: _Job) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="processing")
        self._free -= 1
        pool = self._pool

        def ended(result: Any, error: Exception | None) -> None:
            if not job.future.done():
                if error is None:
                    job.future.set_result(result)
                else:
                    job.future.set_exception(error)
            if pool is self._pool:
                self._free += 1
                self._next(loop)

        def run() -> None:
            result: Any = None
            failure: Exception | None = None
            try:
                if job.deadline is not None and job.deadline <= time.monotonic():
                    raise DeadlineExceeded("Request timeout expired")
                result = job.work()
            except BaseException as error:  # whatever it is, somebody waits for it
                failure = contained(error)
            try:
                loop.call_soon_threadsafe(ended, result, failure)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
            del result, failure  # an error would hold this frame, and the frame it

        pool.submit(run)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._queues and self._free:
            user, queue = next(iter(self._queues.items()))
            job = queue.popleft()
            del self._queues[user]
            if queue:
                self._queues[user] = queue  # behind the others
            if not job.future.done():
                self._begin(loop, job)
