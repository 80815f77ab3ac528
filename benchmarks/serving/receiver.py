"""The least that can take a body from a socket: `python receiver.py LENGTH_OF_A_MESSAGE`.

It knows how long each request is, reads it into memory that it already has, and answers. No parser,
no routing, no engine: what a server takes beyond this is its own.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Receiver(asyncio.BufferedProtocol):
    """Answers every `length` bytes."""

    def __init__(self, length: int) -> None:
        self._memory = memoryview(bytearray(length))
        self._filled = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._memory[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == len(self._memory):
            self._filled = 0
            self._transport.write(ANSWER)


async def main() -> None:
    length = int(sys.argv[1])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Receiver(length), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", file=sys.stderr, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs start without it
    uvloop.run(main())
