"""The load over gRPC: grpcio's asyncio client on one channel, with messages that are bytes already.

A channel is one connection with many requests on it at a time, as gRPC's clients have it. The loop
waits on `select`, which counts microseconds where epoll counts milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.bench.load.count import Count
from mlserve_cli.bench.load.job import Aim, Job, Tally
from mlserve_cli.bench.load.timers import precise_timers

_clock = time.perf_counter_ns
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # a failure is to be counted, not hidden
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcLoad:
    """One run of one process. `run` returns when all is answered or given up."""

    def __init__(self, aim: Aim, job: Job, stop_fd: int) -> None:
        self._aim, self._job, self._stop_fd = aim, job, stop_fd
        self._count = Count(job)
        self._next_message = job.first
        self._call: Any = None
        self._ending: asyncio.Future[None]
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self) -> Tally:
        """Send, count, and tell."""
        precise_timers()
        # grpcio writes to stderr when a connection is refused; it is counted here.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        try:
            return loop.run_until_complete(self._run())
        finally:
            loop.close()

    async def _run(self) -> Tally:
        import grpc

        aim, count = self._aim, self._count
        address = f"[{aim.host}]:{aim.port}" if ":" in aim.host else f"{aim.host}:{aim.port}"
        if aim.tls:
            trusted = Path(aim.ca).read_bytes() if aim.ca else None  # noqa: ASYNC240 - before it
            credentials = grpc.ssl_channel_credentials(trusted)
            channel = grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
        else:
            channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._call = channel.unary_unary(aim.method)
        loop = asyncio.get_running_loop()
        self._ending = loop.create_future()
        loop.add_reader(self._stop_fd, self._stop)
        turning = loop.create_task(self._turn())
        try:
            await self._until(self._job.begin_ns)
            if self._job.schedule_ns is None:
                users = [self._user() for _ in range(self._job.connections)]
                await asyncio.gather(*users)
            else:
                await self._open_loop(np.frombuffer(self._job.schedule_ns, np.int64))
            await self._until(count.end_ns)
            count.turn(_clock())
            return count.finish(_clock())
        finally:
            loop.remove_reader(self._stop_fd)
            turning.cancel()
            await channel.close(None)

    async def _turn(self) -> None:
        while True:
            self._count.turn(_clock())
            await asyncio.sleep(0.01)

    async def _until(self, at_ns: int) -> None:
        left_ns = min(at_ns, self._count.end_ns) - _clock()
        if left_ns > 0:
            await asyncio.wait([self._ending], timeout=left_ns / 1e9)

    async def _user(self) -> None:
        """Ask, wait for the answer, ask again."""
        while not self._stopped and (now := _clock()) < self._count.end_ns:
            if self._count.counts(now):
                self._count.tally.sent += 1
            if not await self._ask(now):
                await asyncio.sleep(0.05)

    async def _open_loop(self, offsets: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        count = self._count
        times = (offsets + self._job.begin_ns).tolist()
        count.tally.planned = sum(count.counts(at) for at in times)
        loop = asyncio.get_running_loop()
        for at in times:
            if (left := at - _clock()) > 0:
                await asyncio.sleep(left / 1e9)
            if at >= count.end_ns or self._stopped:
                break
            if count.hopeless:
                count.tally.gave_up = True
                count.cut(_clock())
                break
            if count.counts(at):
                count.tally.sent += 1
                count.late(_clock() - at)
            task = loop.create_task(self._later(at))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            count.tally.waiting_most = max(count.tally.waiting_most, len(self._tasks))
        while self._tasks and not self._stopped:
            await asyncio.wait(self._tasks, timeout=0.05)

    async def _later(self, at: int) -> None:
        await self._ask(at)

    async def _ask(self, begun_ns: int) -> bool:
        """Send one request and count what becomes of it; False where nothing answered."""
        import grpc

        count, number = self._count, self._next_message
        messages = self._aim.messages
        self._next_message = (number + 1) % len(messages)
        counts = count.counts(begun_ns)
        try:
            answer = await self._call(
                messages[number], timeout=self._job.timeout_s, metadata=self._aim.metadata or None
            )
        except grpc.aio.AioRpcError as error:
            if self._stopped or not counts:
                return error.code() is not grpc.StatusCode.UNAVAILABLE
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                count.failed("timeout", _clock() - begun_ns)
                return True
            if error.code() is grpc.StatusCode.UNAVAILABLE and "onnect" in (error.details() or ""):
                count.failed("connection refused")
                return False
            count.refused(error.code().name)
            return True
        now = _clock()
        if count.wants_sample:
            count.sample(number, answer)
        if count.start_ns <= now < count.end_ns:
            count.tally.completed += 1
        if counts:
            count.answered(now - begun_ns, now)
        return True

    def _stop(self) -> None:
        """The other end of the pipe wants no more."""
        asyncio.get_running_loop().remove_reader(self._stop_fd)
        self._stopped = True
        self._ending.set_result(None)
        self._count.stop(_clock())
        for task in self._tasks:
            task.cancel()
