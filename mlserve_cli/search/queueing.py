"""What a server would answer, and how late: its queue and batcher, played through event by event.

The rules are those of `runtime/batcher.py`. Requests come in over one event loop, which serves one
after the other. An idle instance takes what is queued at the end of the loop's turn, up to the
largest batch (with `max_delay_ms`, once the oldest has waited so long or the batch is full); while
all are busy the queue grows. Closed formulas exist for the corners of this alone (M/D/1: one
instance, no batches, which a test holds it to), and playing through some thousand requests takes
milliseconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.runtime.tensors import Array

Times = Mapping[tuple[int, int], float]
"""(threads, rows) → seconds of one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What one request takes, of what.

    times: of the engine alone, at the sizes that were measured. spread: single runs relative to
    their median, drawn from for each batch. slowdown: of the engine beside the event loop and the
    load. loop_s: of the event loop, for each request. fixed_s: what a lone request takes besides.
    rows: in a request.
    """

    times: Times
    spread: Sequence[float] = (1.0,)
    slowdown: float = 1.0
    loop_s: float = 0.0
    fixed_s: float = 0.0
    rows: int = 1

    def run_s(self, threads: int, rows: int) -> float:
        """Seconds of a batch: between two measured sizes in proportion, beyond the last by rows."""
        mine = {size: time for (count, size), time in self.times.items() if count == threads}
        sizes = sorted(mine)
        seconds = [mine[size] for size in sizes]
        if rows > sizes[-1]:
            return self.slowdown * seconds[-1] * rows / sizes[-1]
        return self.slowdown * float(np.interp(rows, sizes, seconds))


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """latencies_s: (n,) float64, of each request from when it was sent. seconds: until the last
    answer. batches: how many there were."""

    latencies_s: Array = field(repr=False)
    seconds: float
    batches: int

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / self.seconds if self.seconds else 0.0

    def percentile_ms(self, percent: float) -> float:
        """Without the first eighth, which met an empty server."""
        return float(np.percentile(self.latencies_s[len(self.latencies_s) // 8 :], percent)) * 1e3


def play(arrivals_s: Array, service: Service, sizing: Sizing, *, seed: int = 0) -> Played:
    """An open loop: requests sent at (n,) `arrivals_s`, whatever became of those before."""
    server = _Server(service, sizing, len(arrivals_s), seed)
    for number, time in enumerate(arrivals_s):
        server.push(float(time), server.arrive, number)
    return server.run(float(arrivals_s[0]) if len(arrivals_s) else 0.0)


def saturate(
    users: int, requests: int, service: Service, sizing: Sizing, *, seed: int = 0
) -> Played:
    """A closed loop: `users` who each send again once they are answered, `requests` in all."""
    server = _Server(service, sizing, requests, seed, users=users)
    for number in range(min(users, requests)):
        server.push(0.0, server.arrive, number)
    return server.run(0.0)


class _Server:
    def __init__(
        self, service: Service, sizing: Sizing, requests: int, seed: int, users: int = 0
    ) -> None:
        self._service, self._sizing = service, sizing
        self._most = max(1, sizing.max_batch // service.rows)
        self._run_s = [
            service.run_s(sizing.threads, (count + 1) * service.rows) for count in range(self._most)
        ]
        factors = np.random.default_rng(seed).choice(np.asarray(service.spread), 4096)
        self._factors: list[float] = factors.tolist()
        self._delay_s = sizing.max_delay_ms / 1e3
        self._half_s = service.loop_s / 2
        self._events: list[tuple[float, int, object, object]] = []
        self._count = 0
        self._queue: deque[int] = deque()
        self._since: deque[float] = deque()
        self._idle = sizing.instances
        self._scheduled = False
        self._due = -1.0
        self._loop_free = 0.0
        self._sent = [0.0] * requests
        self._answered = [0.0] * requests
        self._next = users if users else requests
        self._closed = bool(users)
        self._batches = 0

    def push(self, time: float, act: object, what: object = None) -> None:
        self._count += 1  # events of one moment come in the order in which they were pushed
        heapq.heappush(self._events, (time, self._count, act, what))

    def run(self, first: float) -> Played:
        while self._events:
            time, _, act, what = heapq.heappop(self._events)
            act(time, what)  # type: ignore[operator]
        sent, answered = np.array(self._sent), np.array(self._answered)
        last = float(answered.max(initial=first))
        return Played(answered - sent, last - first, self._batches)

    def arrive(self, now: float, number: int) -> None:
        self._sent[number] = now
        self._loop_free = max(now, self._loop_free) + self._half_s
        self.push(self._loop_free, self._enqueue, number)

    def _enqueue(self, now: float, number: int) -> None:
        self._queue.append(number)
        self._since.append(now)
        self._schedule(max(now, self._loop_free))

    def _schedule(self, when: float) -> None:
        if self._idle and not self._scheduled:
            self._scheduled = True
            self.push(when, self._dispatch)

    def _dispatch(self, now: float, _: object) -> None:
        self._scheduled = False
        while self._idle and self._queue:
            if self._delay_s and len(self._queue) < self._most:
                due = self._since[0] + self._delay_s
                if now < due:
                    if due > self._due:  # once for each request that is the oldest
                        self._due = due
                        self.push(due, self._dispatch)
                    return
            taken = min(len(self._queue), self._most)
            batch = [self._queue.popleft() for _ in range(taken)]
            for _ in range(taken):
                self._since.popleft()
            took = self._run_s[taken - 1] * self._factors[self._batches % len(self._factors)]
            self._batches += 1
            self._idle -= 1
            if self._sizing.inline:
                self._loop_free = max(now, self._loop_free) + took
                self.push(self._loop_free, self._done, batch)
            else:
                self.push(now + took, self._done, batch)

    def _done(self, now: float, batch: list[int]) -> None:
        self._idle += 1
        for number in batch:
            self._loop_free = max(now, self._loop_free) + self._half_s
            self._answered[number] = self._loop_free + self._service.fixed_s
            if self._closed and self._next < len(self._sent):
                self.push(self._answered[number], self.arrive, self._next)
                self._next += 1
        if self._queue:
            self._schedule(now)
