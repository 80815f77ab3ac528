"""Requests at times of their own, whether or not the last ones were answered (an open loop).

Latency counts from the scheduled time, so that a request that had to wait for its turn to be sent
is not left out ("coordinated omission"). One process of asyncio is enough for some thousands a
second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from urllib.parse import urlsplit

import numpy as np


class _Line(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[int] | None = None
        self.transport: asyncio.Transport | None = None
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0])
        if len(body) == length and self.answered is not None:
            self._read = b""
            self.answered.set_result(int(head.split(b" ", 2)[1]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(exc or ConnectionError("the server closed the connection"))


def poisson(rate: float, seconds: float, *, seed: int = 0) -> np.ndarray:
    """(n,) float64: times in seconds from the start, at random with that mean rate."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    return np.cumsum(gaps)


def drive(url: str, body: bytes, headers: dict[str, str], times: np.ndarray) -> np.ndarray:
    """(n,) float64: milliseconds from each scheduled time to the whole answer."""
    return asyncio.run(_drive(url, body, headers, times))


async def _drive(url: str, body: bytes, headers: dict[str, str], times: np.ndarray) -> np.ndarray:
    place = urlsplit(url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\n{lines}"
    message = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()
    idle: deque[_Line] = deque()  # used in turn, so that none is closed for being idle
    took = np.zeros(len(times))

    async def ask(index: int, scheduled: float) -> None:
        if idle:
            line = idle.popleft()
        else:
            _, line = await loop.create_connection(_Line, place.hostname, place.port)
        line.answered = loop.create_future()
        line.transport.write(message)
        status = await line.answered
        took[index] = (loop.time() - scheduled) * 1e3
        if status != 200:
            raise SystemExit(f"a request was answered {status}")
        idle.append(line)

    began = loop.time() + 0.1
    async with asyncio.TaskGroup() as group:
        for index, time in enumerate(times):
            await asyncio.sleep(max(0.0, began + time - loop.time()))
            group.create_task(ask(index, began + time))
    for line in idle:
        line.transport.close()
    return took
