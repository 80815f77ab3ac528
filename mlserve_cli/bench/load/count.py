"""What both loads, over HTTP and gRPC, count in the same way."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from mlserve_cli.bench.load.histogram import BUCKETS, SLICES, Histogram, bucket_of
from mlserve_cli.bench.load.job import Job, Tally

LATE_NS = 1_000_000
"""A millisecond: what a scheduler may take to wake a process is less, and no client sees it."""

_SAMPLE_BYTES = 4 << 20  # of answers that are handed back whole, all together


class Count:
    """Tallies a run. The loads append to `latencies` and call `turn` once in a while."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.tally = Tally()
        self.start_ns = job.begin_ns + int(job.warm_up_s * 1e9)
        self.end_ns = self.start_ns + int(job.seconds * 1e9)
        self.latencies: list[int] = []
        self.wants_sample = True
        self._step_ns = max(1, (self.end_ns - self.start_ns) // SLICES)
        self._turn_ns = self.start_ns + self._step_ns
        self._slice = 0
        self._counts = np.zeros((SLICES, BUCKETS), np.int64)
        self._sum_ns = self._max_ns = 0
        self._sample_bytes = 0
        self._cpu: tuple[float, float] | None = None
        self._closed = False

    def turn(self, now: int) -> None:
        """Called on each round of the loop: opens and closes the window, moves the stretches on."""
        if self._cpu is None:
            if now >= self.start_ns:
                self._cpu = _times()
            return
        if now >= self.end_ns:
            self._close(now)
        if len(self.latencies) >= 4096:
            self._flush()
        if now >= self._turn_ns:
            self._flush()
            passed = (now - self._turn_ns) // self._step_ns + 1
            self._slice = min(SLICES - 1, self._slice + passed)
            self._turn_ns += passed * self._step_ns
            self.wants_sample = len(self.tally.samples) < self.job.samples

    def counts(self, at_ns: int) -> bool:
        """Whether a request of that time counts."""
        return self.start_ns <= at_ns < self.end_ns

    def answered(self, latency_ns: int, now: int) -> None:
        """A request that counts was answered with success."""
        self.tally.answered += 1
        self.latencies.append(latency_ns)

    def refused(self, status: str) -> None:
        """A request that counts was answered with an error."""
        self.tally.statuses[status] = self.tally.statuses.get(status, 0) + 1
        self.tally.over += 1

    def failed(self, why: str, latency_ns: int | None = None) -> None:
        """A request that counts was not answered; one that was given up was late by then."""
        self.tally.errors[why] = self.tally.errors.get(why, 0) + 1
        self.tally.over += 1
        if latency_ns is not None:
            self._flush()
            self._put(np.array([latency_ns]))

    def late(self, nanoseconds: int) -> None:
        """How long after its time a request that counts was sent."""
        tally = self.tally
        tally.late_sum_ns += nanoseconds
        if nanoseconds > LATE_NS:
            tally.late += 1
        if nanoseconds > tally.late_max_ns:
            tally.late_max_ns = nanoseconds

    def sample(self, message: int, body: bytes) -> None:
        """Keep an answer whole."""
        self.wants_sample = False
        if self._sample_bytes + len(body) <= _SAMPLE_BYTES:
            self._sample_bytes += len(body)
            self.tally.samples.append((message, body))

    @property
    def hopeless(self) -> bool:
        """Whether so many were over the objective that no more need be sent."""
        limit = self.job.give_up_over
        return limit > 0 and self.tally.over > limit

    def stop(self, now: int) -> None:
        """Let the window end now."""
        self.tally.stopped = True
        self.cut(now)

    def cut(self, now: int) -> None:
        """Let the window end now, before its time."""
        if now < self.end_ns:
            self.end_ns = max(now, self.start_ns)
            self._close(now)

    def finish(self, now: int) -> Tally:
        """The tally of the whole run."""
        self._close(now)
        self._flush()
        self.tally.keep(Histogram(self._counts, self._sum_ns, self._max_ns))
        return self.tally

    def _close(self, now: int) -> None:
        if self._closed or self._cpu is None:
            return
        self._closed = True
        cpu, waited = _times()
        self.tally.window_s = (min(now, self.end_ns) - self.start_ns) / 1e9
        # What was used until now, for a moment that may lie a little after the window's end.
        share = (self.end_ns - self.start_ns) / max(1, now - self.start_ns)
        self.tally.cpu_s = (cpu - self._cpu[0]) * min(1.0, share)
        self.tally.waited_s = (waited - self._cpu[1]) * min(1.0, share)

    def _flush(self) -> None:
        if self.latencies:
            found = np.array(self.latencies, np.int64)
            self.latencies.clear()
            self._put(found)
            if self.job.objective_ns:
                self.tally.over += int((found > self.job.objective_ns).sum())

    def _put(self, found: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        np.add.at(self._counts[self._slice], bucket_of(found), 1)
        self._sum_ns += int(found.sum())
        self._max_ns = max(self._max_ns, int(found.max()))


def _times() -> tuple[float, float]:
    """Seconds of CPU of this process, and seconds that it was ready and had to wait for a core."""
    try:
        # On a core, waiting for one, times: Documentation/scheduler/sched-stats.rst
        waited = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        waited = 0.0
    return time.process_time(), waited
