"""Dynamic batching that never makes a lone request wait.

Work-conserving: an idle worker takes what is queued at the end of the event loop's turn, once
every socket that was ready has been read; while all are busy the queue grows, and the next batch
is everything queued, up to the limit. Rows are counted, not requests.

The event loop owns all of this: there are no locks, no polling and no ticks. A request leaves it
only inside a batch, and comes back as a callback on the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .batch import Buffers, Promise, key_of, split
from .errors import InferenceFailed, Overloaded, RequestError, Stopping
from .pace import Pace
from .padding import Padding
from .share import Alone, Share
from .tensors import Tensors
from .timing import Timing
from .waiting import STEP_S, USUAL, Batch, Request, Waiting, level_of, too_late
from .worker import Worker


class Observer(Protocol):
    """Told of every batch; the metrics implement it."""

    def queued(self, rows: int) -> None:
        """The queue holds `rows` rows now."""

    def waited(self, seconds: float) -> None:
        """A request left the queue for a worker after `seconds`."""

    def closed(self, reason: str) -> None:
        """A batch got no more requests, because of `reason`.

        "empty": nobody else waited. "full": the next would not have fitted. "shape": only others
        waited that have other shapes. "single": the model's requests share no batch. "half": it is
        a part of a batch that failed.
        """

    def padded(self, elements: int, padding: int) -> None:
        """A batch of `elements` elements was filled up with `padding` more."""

    def ran(self, rows: int, seconds: float) -> None:
        """A worker ran a batch of `rows` rows in `seconds`."""


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
    may wait; a request of more than that is taken while nothing else waits. max_queue_ms: who
    would wait longer than that is refused (0: no limit). promise: what the engine's answers must
    be. padding: where requests of different shapes may share a batch. share: of the cores that
    other models use, too.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        max_batch: int,
        max_queue_rows: int,
        observer: Observer,
        max_delay_ms: float = 0.0,
        max_queue_ms: float = 0.0,
        merge: bool = True,
        promise: Promise | None = None,
        padding: Padding | None = None,
        share: Share | None = None,
    ) -> None:
        self.max_batch = max_batch
        self._max_queue_rows = max_queue_rows
        self._max_queue_s = max_queue_ms / 1e3
        self._observer = observer
        self._idle = [_Desk(worker, Buffers(max_batch)) for worker in workers]
        self._desks = tuple(self._idle)
        self._waiting = Waiting(
            max_batch=max_batch,
            merge=merge,
            max_delay_s=max_delay_ms / 1e3 if merge else 0.0,  # no company, no waiting for it
        )
        self._halves: deque[list[Request]] = deque()  # of batches that failed, to be run again
        self._pace = Pace(max_batch=max_batch if merge else 1, workers=len(self._desks))
        self._promise = promise
        self._padding = padding if merge else None
        self._key = key_of if self._padding is None else self._padding.key
        self._share: Share | Alone = Alone() if share is None else share
        self._share.wake = self._wake
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._closed = False
        self._drained: asyncio.Future[None] | None = None

    def limit(self, *, max_queue_rows: int, max_queue_ms: float) -> None:
        """Take newcomers by other limits from now on; who waits already stays."""
        self._max_queue_rows = max_queue_rows
        self._max_queue_s = max_queue_ms / 1e3

    @property
    def workers(self) -> int:
        """How many batches may be running at the same time."""
        return len(self._desks)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a worker."""
        return self._waiting.rows

    @property
    def queue_delay_s(self) -> float:
        """How long a request that comes now would wait, at the pace of the last batches."""
        return self._pace.seconds(self._waiting.rows)

    async def run(
        self,
        tensors: Tensors,
        rows: int,
        deadline: float | None = None,
        *,
        priority: int = 0,
        timing: Timing | None = None,
        admitted: bool = False,
    ) -> Tensors:
        """Answer `rows` rows, at most `max_batch` of them, that were checked against the signature.

        priority: 1 is the most urgent; 0 means the usual one, 2. timing: filled in. admitted: the
        rows belong to a request whose first rows were taken, so they are not refused for want of
        room.

        Raises `Overloaded` or `Stopping` at once, also where the deadline cannot be met;
        `DeadlineExceeded` when the deadline passes first; `InferenceFailed` when the engine fails
        on these very rows. A task that is cancelled here takes its rows out of the queue.
        """
        loop = asyncio.get_running_loop()
        if self._stopping:
            raise _stopping()
        level = level_of(priority) if priority else USUAL
        now = time.monotonic()
        if not admitted:
            self._admit(rows, level, now, deadline)
        rank = now if level == USUAL else now + (level - USUAL) * STEP_S
        request = Request(
            tensors,
            rows,
            self._key(tensors),
            loop.create_future(),
            deadline,
            now,
            level,
            rank,
            timing,
        )
        if timing is not None and not timing.queued_at:
            timing.queued_at = now
        self._waiting.add(request)
        self._observer.queued(self._waiting.rows)
        self._wake()
        timer = None
        if deadline is not None:
            timer = loop.call_later(max(deadline - now, 0.0), self._expire, request)
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
        self._waiting.max_delay_s = 0.0  # nobody waits for company any more
        self._wake()
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()
        self._check_drained()
        await asyncio.shield(self._drained)

    def close(self) -> None:
        """End the workers; whoever has no answer yet is told that the server stops."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        queued = self._waiting.clear()
        self._observer.queued(0)
        for batch in (queued, *self._halves, *(desk.batch for desk in self._desks)):
            for request in batch:
                request.fail(_stopping())
        self._halves.clear()
        for desk in self._desks:
            desk.worker.close()
        self._closed = True
        self._share.leave()
        self._check_drained()

    def _admit(self, rows: int, level: int, now: float, deadline: float | None) -> None:
        """Refuse what has no room, and what would wait too long. Raises `Overloaded`."""
        waiting = self._waiting.rows
        if not waiting:
            return  # whatever its size, it is next
        if waiting + rows > self._max_queue_rows and not self._make_room(rows, level):
            raise self._overloaded(
                f"{waiting} rows wait, and max_queue_rows is {self._max_queue_rows}"
            )
        if deadline is None and not self._max_queue_s:
            return
        wait_s = self._pace.seconds(self._waiting.rows_before(level))
        if self._max_queue_s and wait_s > self._max_queue_s:
            raise self._overloaded(
                f"the wait would be about {wait_s * 1e3:.0f} ms, and max_queue_ms is "
                f"{self._max_queue_s * 1e3:g}"
            )
        if deadline is not None and now < deadline < now + wait_s:
            raise self._overloaded(
                f"the wait would be about {wait_s * 1e3:.0f} ms, and the deadline is in "
                f"{(deadline - now) * 1e3:.0f} ms"
            )

    def _make_room(self, rows: int, level: int) -> bool:
        """Send away those who are less urgent, the last first, if that makes room for `rows`."""
        waiting = self._waiting
        if waiting.rows_before(level) + rows > self._max_queue_rows:
            return False
        while waiting.rows + rows > self._max_queue_rows:
            last = waiting.last_after(level)
            if last is None:  # those left stand behind somebody urgent
                return False
            self._withdraw(last)
            last.fail(self._overloaded("a more urgent request took the place in the queue"))
        return True

    def _overloaded(self, why: str) -> Overloaded:
        retry_after_s = self._pace.retry_after_s(self._waiting.rows)
        return Overloaded(f"the queue is full: {why}", retry_after_s=retry_after_s)

    def _wake(self) -> bool:
        """Let an idle worker look at the queue; whether there is something for it."""
        if not self._idle or not (self._waiting.queues or self._halves):
            return False
        if not self._scheduled:
            self._scheduled = True
            # Behind every callback of this turn: those that read sockets add to the batch.
            asyncio.get_running_loop().call_soon(self._dispatch)
        return True

    def _dispatch(self) -> None:
        self._scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # An inline worker is idle again at once; its next batch is for the loop's next turn, so
        # that sockets are read in between.
        for _ in range(len(self._idle)):
            if not (self._waiting.queues or self._halves) or not self._share.take():
                break
            batch = self._next()
            if batch is None:
                self._share.give(0.0)
                break
            self._start(self._idle.pop(), batch)
        self._check_drained()

    def _next(self) -> Batch | None:
        """The next batch; None where there is nothing to run yet."""
        while self._halves:
            now = time.monotonic()
            half = [request for request in self._halves.popleft() if request.is_wanted(now)]
            if half:
                return Batch(half, "half")
        waiting = self._waiting
        while waiting.queues:
            now = time.monotonic()
            queue = waiting.ripe(now)
            if isinstance(queue, float):
                self._timer = asyncio.get_running_loop().call_later(queue, self._dispatch)
                break
            batch = waiting.cut(queue, now)
            self._observer.queued(waiting.rows)
            if batch.requests:
                for request in batch.requests:
                    waited = now - request.arrived
                    self._observer.waited(waited)
                    if request.timing is not None:
                        request.timing.queue_s += waited
                return batch
        return None

    def _start(self, desk: _Desk, batch: Batch) -> None:
        requests = batch.requests
        started = time.perf_counter()
        rows = sum([request.rows for request in requests])
        desk.batch = requests
        self._observer.closed(batch.closed)
        backlog = batch.closed != "empty"

        def done(outputs: Tensors | None, error: BaseException | None) -> None:
            seconds = time.perf_counter() - started
            for request in requests:
                timing = request.timing
                if timing is not None:
                    timing.compute_s += seconds
                    if rows > timing.batch_rows:
                        timing.batch_rows = rows
            self._share.give(seconds)
            self._finish(desk, outputs, error)
            self._pace.ran(rows, seconds, backlog=backlog)
            self._observer.ran(rows, seconds)

        try:
            parts = [request.tensors for request in requests]
            if self._padding is None or len(parts) == 1:
                joined = desk.buffers.join(parts, requests[0].key, rows)
            else:
                joined, elements, padding = self._padding.join(parts, rows)
                self._observer.padded(elements, padding)
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
                parts = split(outputs, [request.rows for request in batch], self._promise)
                if self._padding is not None and len(batch) > 1:
                    self._padding.cut(parts, [request.tensors for request in batch])
            except Exception as wrong:  # a custom engine may return anything
                error = wrong
        if error is not None:
            self._failed(batch, error)
        else:
            for request, part in zip(batch, parts, strict=True):
                if not request.future.done():
                    request.future.set_result(part)
        self._wake()
        self._check_drained()

    def _failed(self, batch: list[Request], error: BaseException) -> None:
        """Halve a batch that failed until the request that made it fail stands alone."""
        if len(batch) == 1:
            batch[0].fail(_translated(error))
            return
        middle = (len(batch) + 1) // 2
        self._halves += (batch[:middle], batch[middle:])

    def _expire(self, request: Request) -> None:
        self._withdraw(request)
        request.fail(too_late())

    def _withdraw(self, request: Request) -> None:
        """Take a request out of the queue, if it is still there."""
        if request.waiting:
            self._waiting.remove(request)
            self._observer.queued(self._waiting.rows)
            self._check_drained()

    def _is_empty(self) -> bool:
        if self._closed:  # a worker may be running yet, and nobody waits for it
            return True
        queued = self._waiting.queues or self._halves
        return not queued and len(self._idle) == len(self._desks)

    def _check_drained(self) -> None:
        if self._drained is not None and not self._drained.done() and self._is_empty():
            self._drained.set_result(None)


def _stopping() -> Stopping:
    return Stopping("the server is shutting down", retry_after_s=1)


def _translated(error: BaseException) -> RequestError:
    if isinstance(error, RequestError):
        return error
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    failed = InferenceFailed(f"the model failed on this request: {first}")
    failed.__cause__ = error
    return failed
