"""The load generator: processes that send, and this side that tells them what and adds up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from mlserve_cli.bench.load import schedule
from mlserve_cli.bench.load.job import Aim, Failure, Job, Message, Tally, frame, read
from mlserve_cli.bench.load.run import ClosedLoop, Load, Run, merged
from mlserve_cli.errors import MlserveError

WARM_UP_S = 0.5
"""The server's first answers, and its caches' first misses, are not what is asked for."""

TIMEOUT_S = 30.0

_LEAD_NS = 150_000_000  # for connections to be opened before the first request is due
_CONNECTIONS = 16  # of an open loop that are there from the start
_MOST_CONNECTIONS = 512  # of one process, which may have a thousand files open


class Generator:
    """Processes that send requests; with several, each sends its share of every load.

    A process is used for one run after the other, so that starting it costs no run anything.
    """

    def __init__(self, aim: Aim, *, processes: int = 1) -> None:
        self._aim = aim
        self._processes = [_Worker() for _ in range(processes)]

    def __enter__(self) -> Generator:
        try:
            for worker in self._processes:
                worker.start()
            for worker in self._processes:
                worker.expect()
                worker.tell(self._aim)
                worker.expect()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        for worker in self._processes:
            worker.close()

    def run(
        self,
        load: Load,
        *,
        seconds: float,
        warm_up_s: float = WARM_UP_S,
        timeout_s: float = TIMEOUT_S,
        objective_ms: float | None = None,
        give_up_over: int = 0,
    ) -> Run:
        """Send `load` for `warm_up_s`, then for `seconds` that count; wait for the answers.

        objective_ms: answers that take longer are counted in `Run.over`, exactly. give_up_over:
        the run ends once there are more of those; 0 never. Ctrl-C ends the run early, and what was
        counted until then is returned with `interrupted`. Raises `MlserveError` when a process of
        the generator dies.
        """
        workers = self._processes
        if isinstance(load, ClosedLoop):
            workers = workers[: load.concurrency]  # a user is one process's
        begin_ns = time.perf_counter_ns() + _LEAD_NS
        common = {
            "begin_ns": begin_ns,
            "warm_up_s": warm_up_s,
            "seconds": seconds,
            "timeout_s": timeout_s,
            "objective_ns": 0 if objective_ms is None else int(objective_ms * 1e6),
            "give_up_over": give_up_over,
        }
        for number, (worker, part) in enumerate(
            zip(workers, _parts(load, len(workers), warm_up_s + seconds), strict=True)
        ):
            first = number * len(self._aim.messages) // len(workers)
            worker.tell(Job(**common, **part, first=first))  # type: ignore[arg-type]
        tallies, interrupted = _collect(workers)
        return merged(load, tallies, objective_ms=objective_ms, interrupted=interrupted)


def _parts(load: Load, count: int, seconds: float) -> list[dict[str, object]]:
    """What each of `count` processes gets of a load."""
    if isinstance(load, ClosedLoop):
        shares = [len(range(number, load.concurrency, count)) for number in range(count)]
        return [{"connections": share, "most_connections": share} for share in shares]
    if load.poisson:
        times = schedule.poisson(load.rate, seconds, seed=load.seed)
    else:
        times = schedule.constant(load.rate, seconds)
    nanoseconds = (times * 1e9).astype(np.int64)
    return [
        {
            "connections": max(1, _CONNECTIONS // count),
            "most_connections": _MOST_CONNECTIONS,
            "schedule_ns": nanoseconds[number::count].tobytes(),
        }
        for number in range(count)
    ]


def _collect(workers: Sequence[_Worker]) -> tuple[list[Tally], bool]:
    tallies: dict[int, Tally] = {}
    interrupted = False
    while len(tallies) < len(workers):
        try:
            for number, worker in enumerate(workers):
                if number not in tallies:
                    tallies[number] = worker.tally()
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            for number, worker in enumerate(workers):
                if number not in tallies:
                    worker.stop()
    return [tallies[number] for number in range(len(workers))], interrupted


class _Worker:
    """One process, and the pipes to it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._read = bytearray()
        self._stopped = False

    def start(self) -> None:
        # Unbuffered: a byte in the middle of a run is to stop it. A session of its own, so that a
        # terminal's Ctrl-C reaches this side alone, which then asks for what was counted so far.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlserve_cli.bench.load.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )

    def tell(self, message: Message) -> None:
        text = memoryview(frame(message))
        try:
            while len(text):
                text = text[os.write(self._fd("stdin"), text) :]
        except BrokenPipeError:
            raise self._died() from None

    def expect(self) -> Message:
        """The next message. One that a Ctrl-C interrupts goes on where it was."""
        at = 0

        def take(count: int) -> bytes:
            nonlocal at
            while len(self._read) < at + count:
                piece = os.read(self._fd("stdout"), 1 << 20)
                if not piece:
                    return b""
                self._read += piece
            at += count
            return bytes(self._read[at - count : at])

        message = read(take)
        if message is None:
            raise self._died()
        del self._read[:at]
        if isinstance(message, Failure):
            raise MlserveError(f"the load generator failed: {message.reason.rstrip('.')}.")
        return message

    def tally(self) -> Tally:
        message = self.expect()
        if not isinstance(message, Tally):
            raise self._died()
        return message

    def stop(self) -> None:
        """End the run that goes on; the process with it, since the byte may be read too late."""
        if not self._stopped:
            self._stopped = True
            assert self._process is not None and self._process.stdin is not None  # noqa: S101, PT018
            self._process.stdin.close()

    def close(self) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def _fd(self, name: str) -> int:
        pipe = getattr(self._process, name)
        return int(pipe.fileno())

    def _died(self) -> MlserveError:
        return MlserveError(
            "a process of the load generator ended unexpectedly.",
            hint="its own words, if any, stand above; was it out of memory?",
        )
