"""Dynamic batching that never makes a lone request wait.

Work-conserving: an idle worker takes what is queued at the end of the event loop's turn, once
every socket that was ready has been read; while all are busy the queue grows, and the next batch
is everything queued, up to the limit. Rows are counted, not requests.

The event loop owns all of this: there are no locks, no polling and no ticks. A request leaves it
only inside a batch, and comes back as a callback on the loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .batch import Buffers, Key, key_of, split
from .errors import DeadlineExceeded, InferenceFailed, Overloaded, RequestError, Stopping
from .tensors import Tensors
from .worker import Worker

_SMOOTHING = 0.2  # of the seconds a row takes; a handful of batches is memory enough


class Observer(Protocol):
    """Told of every batch; the metrics implement it."""

    def queued(self, rows: int) -> None:
        """The queue holds `rows` rows now."""

    def waited(self, seconds: float) -> None:
        """A request left the queue for a worker after `seconds`."""

    def ran(self, rows: int, seconds: float) -> None:
        """A worker ran a batch of `rows` rows in `seconds`."""


@dataclass(slots=True, eq=False)
class Request:
    """Rows that are answered together, by completing `future`.

    deadline: by `time.monotonic`; None waits as long as it takes.
    """

    tensors: Tensors
    rows: int
    key: Key
    future: asyncio.Future[Tensors]
    deadline: float | None
    arrived: float
    waiting: bool = True


@dataclass(slots=True)
class _Desk:
    """A worker, the buffers that its batches are written into, and the batch that it runs."""

    worker: Worker
    buffers: Buffers
    batch: list[Request] = field(default_factory=list)


class Batcher:
    """The queue of one model version, and the workers that empty it.

    max_batch: rows in a batch. merge: whether requests may share one. max_delay_ms: how long an
    idle worker lets the oldest request wait for company (0: not at all). max_queue_rows: rows that
    may wait; a request of more than that is taken while nothing else waits.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        max_batch: int,
        max_queue_rows: int,
        observer: Observer,
        max_delay_ms: float = 0.0,
        merge: bool = True,
    ) -> None:
        self.max_batch = max_batch
        self._max_queue_rows = max_queue_rows
        self._max_delay_s = max_delay_ms / 1e3 if merge else 0.0  # no company, no waiting for it
        self._merge = merge
        self._observer = observer
        self._idle = [_Desk(worker, Buffers(max_batch)) for worker in workers]
        self._desks = tuple(self._idle)
        self._queues: dict[Key, deque[Request]] = {}
        self._halves: deque[list[Request]] = deque()  # of batches that failed, to be run again
        self._queued_rows = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._closed = False
        self._drained: asyncio.Future[None] | None = None
        self._row_s = 0.0

    @property
    def workers(self) -> int:
        """How many batches may be running at the same time."""
        return len(self._desks)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a worker."""
        return self._queued_rows

    async def run(self, tensors: Tensors, rows: int, deadline: float | None = None) -> Tensors:
        """Answer `rows` rows, at most `max_batch` of them, that were checked against the signature.

        Raises `Overloaded` or `Stopping` at once; `DeadlineExceeded` when the deadline passes
        first; `InferenceFailed` when the engine fails on these very rows. A task that is
        cancelled here takes its rows out of the queue.
        """
        loop = asyncio.get_running_loop()
        request = self._enqueue(loop, tensors, rows, deadline)
        timer = None
        if deadline is not None:
            delay = deadline - time.monotonic()
            timer = loop.call_later(max(delay, 0.0), self._expire, request)
        try:
            return await request.future
        except asyncio.CancelledError:
            self._withdraw(request)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def drain(self) -> None:
        """Take nothing more, and return when everything taken was answered."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        self._wake(loop)  # nobody waits for company any more
        if self._drained is None:
            self._drained = loop.create_future()
        self._check_drained()
        await asyncio.shield(self._drained)

    def close(self) -> None:
        """End the workers; whoever has no answer yet is told that the server stops."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        for queue in self._queues.values():
            for request in queue:
                self._leave(request)
                _fail(request, _stopping())
        self._queues.clear()
        for batch in (*self._halves, *(desk.batch for desk in self._desks)):
            for request in batch:
                _fail(request, _stopping())
        self._halves.clear()
        for desk in self._desks:
            desk.worker.close()
        self._closed = True
        self._check_drained()

    def _enqueue(
        self,
        loop: asyncio.AbstractEventLoop,
        tensors: Tensors,
        rows: int,
        deadline: float | None,
    ) -> Request:
        if self._stopping:
            raise _stopping()
        if self._queued_rows + rows > self._max_queue_rows and self._queued_rows:
            raise Overloaded(
                f"the queue is full: {self._queued_rows} rows wait, "
                f"and max_queue_rows is {self._max_queue_rows}",
                retry_after_s=self._retry_after_s(),
            )
        key = key_of(tensors)
        request = Request(tensors, rows, key, loop.create_future(), deadline, time.monotonic())
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
        queue.append(request)
        self._queued_rows += rows
        self._observer.queued(self._queued_rows)
        self._wake(loop)
        return request

    def _retry_after_s(self) -> int:
        """When what is queued now will have been answered, at the pace of the last batches."""
        return max(1, min(60, math.ceil(self._queued_rows * self._row_s / self.workers)))

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._idle and not self._scheduled and (self._queues or self._halves):
            self._scheduled = True
            # Behind every callback of this turn: those that read sockets add to the batch.
            loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # An inline worker is idle again at once; its next batch is for the loop's next turn, so
        # that sockets are read in between.
        for _ in range(len(self._idle)):
            batch = self._next()
            if not batch:
                break
            self._start(self._idle.pop(), batch)
        self._check_drained()

    def _next(self) -> list[Request]:
        """The next batch; empty where there is nothing to run yet."""
        while self._halves:
            now = time.monotonic()
            half = [request for request in self._halves.popleft() if _is_wanted(request, now)]
            if half:
                return half
        while self._queues:
            now = time.monotonic()
            queue = self._ripe(now)
            if queue is None:
                break
            batch = self._cut(queue, now)
            if batch:
                return batch
        return []

    def _ripe(self, now: float) -> deque[Request] | None:
        """The queue whose turn it is: the one with the oldest request that need not wait."""
        if not self._max_delay_s or self._stopping:
            return min(self._queues.values(), key=_arrival)
        first = math.inf
        for queue in sorted(self._queues.values(), key=_arrival):
            left = queue[0].arrived + self._max_delay_s - now
            if left <= 0 or sum(request.rows for request in queue) >= self.max_batch:
                return queue
            first = min(first, left)
        self._timer = asyncio.get_running_loop().call_later(first, self._dispatch)
        return None

    def _cut(self, queue: deque[Request], now: float) -> list[Request]:
        """Take the oldest request and those behind it that fit into one batch with it."""
        batch: list[Request] = []
        rows = 0
        while queue and (not batch or (self._merge and rows + queue[0].rows <= self.max_batch)):
            request = queue.popleft()
            self._leave(request)
            if _is_wanted(request, now):
                self._observer.waited(now - request.arrived)
                batch.append(request)
                rows += request.rows
        if not queue:
            del self._queues[request.key]
        return batch

    def _start(self, desk: _Desk, batch: list[Request]) -> None:
        started = time.perf_counter()
        rows = sum([request.rows for request in batch])
        desk.batch = batch

        def done(outputs: Tensors | None, error: BaseException | None) -> None:
            seconds = time.perf_counter() - started
            self._finish(desk, outputs, error)
            self._row_s += _SMOOTHING * (seconds / rows - self._row_s)
            self._observer.ran(rows, seconds)

        try:
            joined = desk.buffers.join([request.tensors for request in batch], batch[0].key, rows)
        except Exception as error:  # memory, above all; the batch is told, the desk goes on
            done(None, error)
            return
        desk.worker.start(joined, done)

    def _finish(
        self,
        desk: _Desk,
        outputs: Tensors | None,
        error: BaseException | None,
    ) -> None:
        batch, desk.batch = desk.batch, []
        self._idle.append(desk)
        if error is None:
            try:
                parts = split(outputs, [request.rows for request in batch])
            except Exception as wrong:  # a custom engine may return anything
                error = wrong
        if error is not None:
            self._failed(batch, error)
        else:
            for request, part in zip(batch, parts, strict=True):
                if not request.future.done():
                    request.future.set_result(part)
        self._wake(asyncio.get_running_loop())
        self._check_drained()

    def _failed(self, batch: list[Request], error: BaseException) -> None:
        """Halve a batch that failed until the request that made it fail stands alone."""
        if len(batch) == 1:
            _fail(batch[0], _translated(error))
            return
        middle = (len(batch) + 1) // 2
        self._halves += (batch[:middle], batch[middle:])

    def _expire(self, request: Request) -> None:
        self._withdraw(request)
        _fail(request, _too_late())

    def _withdraw(self, request: Request) -> None:
        """Take a request out of the queue, if it is still there."""
        if request.waiting:
            queue = self._queues[request.key]
            queue.remove(request)
            self._leave(request)
            if not queue:
                del self._queues[request.key]
            self._check_drained()

    def _leave(self, request: Request) -> None:
        request.waiting = False
        self._queued_rows -= request.rows
        self._observer.queued(self._queued_rows)

    def _is_empty(self) -> bool:
        if self._closed:  # a worker may be running yet, and nobody waits for it
            return True
        return not self._queues and not self._halves and len(self._idle) == len(self._desks)

    def _check_drained(self) -> None:
        if self._drained is not None and not self._drained.done() and self._is_empty():
            self._drained.set_result(None)


def _arrival(queue: deque[Request]) -> float:
    return queue[0].arrived


def _is_wanted(request: Request, now: float) -> bool:
    """Whether somebody still waits for it; who is past the deadline is told so here."""
    if request.deadline is not None and request.deadline <= now:
        _fail(request, _too_late())  # its timer may be behind us in this very turn of the loop
    return not request.future.done()


def _fail(request: Request, error: RequestError) -> None:
    if not request.future.done():
        request.future.set_exception(error)


def _stopping() -> Stopping:
    return Stopping("the server is shutting down", retry_after_s=1)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("Request timeout expired", hint="the answer was not ready in time")


def _translated(error: BaseException) -> RequestError:
    if isinstance(error, RequestError):
        return error
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    failed = InferenceFailed(f"the model failed on this request: {first}")
    failed.__cause__ = error
    return failed
