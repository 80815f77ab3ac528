"""Work on blocks by several threads, taken in order and given back in order, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

LEAVE_S = 10.0
"""How long the threads may take to end their blocks when the job is given up."""


class Conveyor(Generic[T, R]):
    """`workers` threads; each takes the next item itself, works on it, and puts the result down.

    So a thread reads while another computes, none waits for a particular other one, and no more
    than `ahead` items are between the source and whoever takes the results.
    """

    def __init__(
        self, work: Callable[[T], R], *, workers: int, ahead: int, leave_s: float = LEAVE_S
    ) -> None:
        self._work = work
        self._workers = workers
        self._room = threading.Semaphore(ahead)
        self._source = threading.Lock()
        self._changed = threading.Condition()
        self._results: dict[int, R | BaseException] = {}
        self._taken = 0
        self._end: int | None = None
        self._stopping = False
        self._leave_s = leave_s

    def run(self, items: Iterator[T]) -> Generator[R, None, None]:
        """The results, in the order of the items. An error comes where its item's turn would be."""
        threads = [
            threading.Thread(
                target=self._loop, args=(items,), name=f"predict-{number}", daemon=True
            )
            for number in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        try:
            wanted = 0
            while True:
                with self._changed:
                    while wanted not in self._results and wanted != self._end:
                        self._changed.wait()
                    if wanted not in self._results:
                        return
                    result = self._results.pop(wanted)
                if isinstance(result, BaseException):
                    raise result
                yield result
                del result  # what was written need not wait in memory for the next
                wanted += 1
                self._room.release()
        finally:
            self._stopping = True
            for _ in threads:
                self._room.release()
            # One that waits for stdin ends with the process, which does not wait for it.
            end = time.monotonic() + self._leave_s
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))

    def _loop(self, items: Iterator[T]) -> None:
        while True:
            self._room.acquire()
            with self._source:
                if self._stopping or self._end is not None:
                    return
                number = self._taken
                try:
                    item = next(items)
                except StopIteration:
                    self._finish(number)
                    return
                except BaseException as error:  # raised again where its turn is
                    self._put(number, error)
                    self._finish(number + 1)
                    return
                self._taken += 1
            try:
                result: R | BaseException = self._work(item)
            except BaseException as error:
                result = error
            del item
            self._put(number, result)
            del result

    def _put(self, number: int, result: R | BaseException) -> None:
        with self._changed:
            self._results[number] = result
            self._changed.notify()

    def _finish(self, end: int) -> None:
        with self._changed:
            self._end = end
            self._changed.notify()
        for _ in range(self._workers):  # those that wait for room shall see that there is no more
            self._room.release()
