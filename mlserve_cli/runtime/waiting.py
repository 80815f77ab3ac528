"""The requests that wait for a worker, and which of them make up the next batch.

Urgency comes before age, but only by so much: each level less urgent stands as if it had arrived
`STEP_S` later. So nobody starves: who waits that long is overtaken no more.
"""

from __future__ import annotations

import asyncio
import math
from bisect import insort
from collections import deque
from dataclasses import dataclass

from .batch import Key
from .errors import DeadlineExceeded, RequestError
from .tensors import Tensors
from .timing import Timing

USUAL = 2
"""The level of a request that names none; 1 is more urgent, higher numbers are less."""

LEVELS = 10
"""Higher levels count as this one, so that everybody's wait has an end."""

STEP_S = 1.0
"""How much later a request may arrive and still overtake one that is a level less urgent."""


@dataclass(slots=True, eq=False)
class Request:
    """Rows that are answered together, by completing `future`.

    deadline: by `time.monotonic`; None waits as long as it takes. rank: those of lower rank go
    first; it is the arrival, moved by the level.
    """

    tensors: Tensors
    rows: int
    key: Key
    future: asyncio.Future[Tensors]
    deadline: float | None
    arrived: float
    level: int
    rank: float
    timing: Timing | None
    waiting: bool = True

    def fail(self, error: RequestError) -> None:
        """Answer with an error, unless there is an answer."""
        if not self.future.done():
            self.future.set_exception(error)

    def is_wanted(self, now: float) -> bool:
        """Whether somebody still waits for it; who is past the deadline is told so here."""
        if self.deadline is not None and self.deadline <= now:
            self.fail(too_late())  # its timer may be behind us in this very turn of the loop
        return not self.future.done()


@dataclass(slots=True)
class Batch:
    """Requests that are run together, and why there are not more of them."""

    requests: list[Request]
    closed: str


class Waiting:
    """Queues of requests, one for each shape; the rows are counted over all of them.

    max_batch: rows that are taken at once. merge: whether requests may be taken together.
    max_delay_s: how long the oldest waits for company.
    """

    def __init__(self, *, max_batch: int, merge: bool, max_delay_s: float) -> None:
        self.rows = 0
        self.queues: dict[Key, deque[Request]] = {}
        self.max_delay_s = max_delay_s
        self._max_batch = max_batch
        self._merge = merge
        self._level_rows = [0] * (LEVELS + 1)

    def add(self, request: Request) -> None:
        """Put a request where its rank belongs; nearly always that is at the end."""
        queue = self.queues.get(request.key)
        if queue is None:
            queue = self.queues[request.key] = deque()
        if queue and queue[-1].rank > request.rank:
            insort(queue, request, key=_rank)
        else:
            queue.append(request)
        self.rows += request.rows
        self._level_rows[request.level] += request.rows

    def remove(self, request: Request) -> None:
        """Take out a request that waits here."""
        queue = self.queues[request.key]
        queue.remove(request)
        self._left(request)
        if not queue:
            del self.queues[request.key]

    def rows_before(self, level: int) -> int:
        """Rows that a newcomer of that level finds before it, but for what was overtaken long."""
        return sum(self._level_rows[: level + 1])

    def last_after(self, level: int) -> Request | None:
        """The last of those that are less urgent than `level`: the first to be sent away."""
        tails = [queue[-1] for queue in self.queues.values() if queue[-1].level > level]
        return max(tails, key=_rank, default=None)

    def ripe(self, now: float) -> deque[Request] | float:
        """The queue whose turn it is: the first of those that need not wait for company.

        Seconds until one will be, where all of them do. Something must be waiting.
        """
        if not self.max_delay_s:
            if len(self.queues) == 1:
                return next(iter(self.queues.values()))
            return min(self.queues.values(), key=_first_rank)
        soonest = math.inf
        for queue in sorted(self.queues.values(), key=_first_rank):
            first = queue[0]
            # Who is urgent does not wait for company; who is not waits no longer than others.
            left = min(first.rank, first.arrived) + self.max_delay_s - now
            if left <= 0 or sum([request.rows for request in queue]) >= self._max_batch:
                return queue
            soonest = min(soonest, left)
        return soonest

    def cut(self, queue: deque[Request], now: float) -> Batch:
        """Take the first request and those behind it that fit into one batch with it.

        Who has gone, or is past the deadline, is dropped on the way; all of them may be.
        """
        requests: list[Request] = []
        rows = 0
        limit = self._max_batch
        while queue and (not requests or (self._merge and rows + queue[0].rows <= limit)):
            request = queue.popleft()
            self._left(request)
            if request.is_wanted(now):
                requests.append(request)
                rows += request.rows
        if queue:
            return Batch(requests, "full" if self._merge else "single")
        del self.queues[request.key]
        if rows >= limit:
            return Batch(requests, "full")
        if not self._merge:
            return Batch(requests, "single")
        return Batch(requests, "shape" if self.queues else "empty")

    def clear(self) -> list[Request]:
        """Take everything."""
        requests = [request for queue in self.queues.values() for request in queue]
        for request in requests:
            self._left(request)
        self.queues.clear()
        return requests

    def _left(self, request: Request) -> None:
        request.waiting = False
        self.rows -= request.rows
        self._level_rows[request.level] -= request.rows


def level_of(priority: int) -> int:
    """The level of a priority as requests name it: 0 is the usual one."""
    return min(priority, LEVELS) if priority > 0 else USUAL


def too_late() -> DeadlineExceeded:
    """The error of a request whose deadline has passed."""
    return DeadlineExceeded("Request timeout expired", hint="the answer was not ready in time")


def _rank(request: Request) -> float:
    return request.rank


def _first_rank(queue: deque[Request]) -> float:
    return queue[0].rank
