"""Work beside live traffic: on a thread of its own, on one core, behind everybody else.

What a load computes (warm-up, proof, measurement) would otherwise take the cores that answer
requests. Linux schedules threads, so one thread can be held back alone: its priority is lowered for
good, as it ends with the load, and threads that an engine makes for itself are kept on one core
until the load is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .errors import contained

T = TypeVar("T")

_LINUX = sys.platform == "linux"
_NICENESS = 19  # about 1.5 % of a core that others want; all of one that nobody wants


async def alone(work: Callable[[], T], *, name: str = "loading") -> T:
    """Run `work` on a thread that ends with it. One that is cancelled goes on alone."""

    def run() -> T:
        try:
            return work()
        except BaseException as error:  # a package's own code may try to end the process
            raise contained(error) from error.__cause__

    pool = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, run)
    finally:
        pool.shutdown(wait=False)


def step_back() -> None:
    """Lower the priority of the calling thread, for as long as it lives.

    Threads that it starts inherit that, so an engine must have made its own by then.
    """
    if _LINUX:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def threads() -> frozenset[int]:
    """The ids of all threads of this process, also of those that Python does not know."""
    if not _LINUX:
        return frozenset()
    return frozenset(int(each.name) for each in Path("/proc/self/task").iterdir())


@contextmanager
def on_one_core(others: frozenset[int]) -> Iterator[None]:
    """Keep the calling thread and `others` on one core while the block runs.

    Threads that are started meanwhile are let go as well when it ends.
    """
    if not _LINUX:
        yield
        return
    allowed = os.sched_getaffinity(0)
    before = threads()
    mine = {threading.get_native_id(), *others}
    _pin(mine, {max(allowed)})  # the last: what a system does for itself often is on the first
    try:
        yield
    finally:
        _pin(mine | (threads() - before), allowed)


def give_memory_back() -> None:
    """Return freed memory to the system: glibc keeps what is free in the middle of its heap."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _pin(ids: set[int], cores: set[int]) -> None:
    for each in ids:
        with contextlib.suppress(OSError):  # it ended
            os.sched_setaffinity(each, cores)
