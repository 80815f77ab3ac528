"""A request's body: read with a limit while it streams in, unpacked with the same limit.

Also what a client does besides: it may leave, and then its inference is worth nothing.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any

from .errors import InvalidRequest, NotImplementedHere, TooLarge

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

PATIENCE_S = 0.02
"""Most answers are ready sooner, and then nobody needs to watch whether the client leaves."""

_DRAIN_S = 2.0  # how long a refused body is read on, so that its sender gets to read the answer
_DRAIN_BYTES = 256 << 20

_THREAD_BYTES = 256 << 10
"""(De)compressing more than this holds the event loop up for over a millisecond."""

_MEMBERS = 16  # concatenated gzip files; each costs a copy of the rest, so millions would be a bomb


class Disconnected(Exception):
    """The client left before it had an answer; there is nobody to tell."""


async def read(
    headers: Mapping[bytes, bytes],
    receive: Receive,
    *,
    limit_bytes: int,
    grow: Callable[[int], None] | None = None,
) -> bytes:
    """The whole body as it was sent.

    grow: told how much has come in, while more is to come; what it raises ends the reading. Raises
    `TooLarge` at once when Content-Length says so, else as soon as too much has come in;
    `Disconnected`.
    """
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise too_large(limit_bytes)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Disconnected
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        body = await _rest(body, receive, limit_bytes, grow)
    if len(body) > limit_bytes:
        raise too_large(limit_bytes)
    return body


async def unpack(headers: Mapping[bytes, bytes], body: bytes, *, limit_bytes: int) -> bytes:
    """A body, unpacked as its Content-Encoding says. Raises what `decompress` raises."""
    encoding = headers.get(b"content-encoding")
    if encoding is None or encoding == b"identity":
        return body
    if len(body) > _THREAD_BYTES:
        return await asyncio.to_thread(decompress, body, encoding, limit_bytes=limit_bytes)
    return decompress(body, encoding, limit_bytes=limit_bytes)


async def _rest(
    first: bytes, receive: Receive, limit_bytes: int, grow: Callable[[int], None] | None
) -> bytes:
    chunks = [first]
    size = len(first)
    while True:
        if grow is not None:
            grow(len(chunks[-1]))
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        chunks.append(chunk)
        size += len(chunk)
        if size > limit_bytes:
            raise too_large(limit_bytes)
        if not message.get("more_body", False):
            return b"".join(chunks)


async def drain(receive: Receive) -> None:
    """Read a refused body on for a short while and throw it away.

    Closing at once would reset the connection under the sender, which then never sees the answer.
    """
    size = 0
    try:
        async with asyncio.timeout(_DRAIN_S):
            while size < _DRAIN_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def decompress(body: bytes, encoding: bytes, *, limit_bytes: int) -> bytes:
    """Unpack gzip or deflate. Raises `TooLarge`, `InvalidRequest`, `NotImplementedHere`."""
    name = encoding.decode("latin-1").strip().lower()
    if name in ("gzip", "x-gzip"):
        wbits = 16 + zlib.MAX_WBITS
    elif name == "deflate":
        # RFC 9110 means the zlib format, yet some clients send the bare stream.
        wrapped = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
        wbits = zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
    elif name in ("", "identity"):
        return body
    else:
        raise NotImplementedHere(
            f"Unsupported compression type '{name}'", hint="send gzip, deflate or neither"
        )
    parts: list[bytes] = []
    size = 0
    for _ in range(_MEMBERS):
        unpacker = zlib.decompressobj(wbits)
        try:
            part = unpacker.decompress(body, limit_bytes - size + 1)
        except zlib.error as error:
            raise InvalidRequest(f"the body is no valid {name}: {error}") from error
        size += len(part)
        if size > limit_bytes:
            raise too_large(limit_bytes)
        if not unpacker.eof:
            raise InvalidRequest(f"the body is no valid {name}: it ends too early")
        parts.append(part)
        body = unpacker.unused_data  # gzip may hold several members
        if not body:
            return b"".join(parts)
        if wbits <= zlib.MAX_WBITS:
            break
    raise InvalidRequest(f"the body is no valid {name}: bytes follow its end")


async def compress(body: bytes, accepted: bytes) -> tuple[bytes, bytes | None]:
    """Pack an answer for a client that asked for exactly one encoding → (body, encoding).

    A list such as "gzip, deflate" is what every HTTP library sends by itself; on a fast network
    packing would cost it more than it saves, so that is answered plainly.
    """
    name = accepted.strip().lower()
    if name not in (b"gzip", b"deflate"):
        return body, None
    wbits = zlib.MAX_WBITS + (16 if name == b"gzip" else 0)
    if len(body) > _THREAD_BYTES:
        return await asyncio.to_thread(zlib.compress, body, 1, wbits), name
    return zlib.compress(body, 1, wbits), name


def too_large(limit_bytes: int) -> TooLarge:
    """The error for a body, packed or unpacked, over the limit."""
    return TooLarge(
        f"the body is larger than {limit_bytes} bytes",
        hint="send fewer rows at once; the setting max_body_mb raises the limit",
    )


class Watch:
    """Cancels the task inside the block when the client leaves, and then raises `Disconnected`.

    Only a request that takes longer than `PATIENCE_S` is watched: a quick one costs a timer.
    """

    __slots__ = ("_gone", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False

    def __enter__(self) -> Watch:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._begin)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and kind is asyncio.CancelledError and self._task is not None:
            self._task.uncancel()
            raise Disconnected from None

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
        self._gone = True
        if self._task is not None:
            self._task.cancel()
