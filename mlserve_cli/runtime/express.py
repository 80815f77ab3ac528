"""The short way for small requests to the hot endpoints: from the parser to the endpoint and back.

A prediction of a tiny model costs less than the layers of an ASGI server and of routing around it,
and of a large picture those layers make three copies. So a request whose path leads to one of our
endpoints, and whose body's length is announced, goes to that endpoint straight: a small body is
answered in one go, a large one is read from the socket into the memory that the engine or the batch
takes it from. Everything else goes the long way: other paths, bodies of unknown length, and all of
it where the application has middleware of its own, which must see every request (the guard, which
stands in front of all of ours, is asked here as well).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, MutableMapping, MutableSet
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.routing import Match, Route
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from .body import Disconnected
from .dataplane import Hold
from .errors import Overloaded
from .gate import Gate, admits, scope_of
from .protocols.endpoint import Call, Endpoint, Reply
from .security import Guard

SMALL = 64 << 10
"""Bytes of a body that is worth joining with its head; a larger one is not copied for that."""

_ALIGNMENT = 64  # of the first tensor in a large body, as kernels like it

_HEAD = 4 << 10  # bytes; the usual head and the JSON before a tensor take a tenth of it

_KEPT = 1024  # paths; clients choose them, so there has to be an end
_NOTHING = object()

Target = tuple[Endpoint, str, dict[str, str]]
"""The endpoint of a path, the path, and what the route took out of it."""


class Express:
    """Which paths of an application lead to an endpoint of ours."""

    def __init__(self, app: Any) -> None:
        self._routes: list[Any] = []
        self._guard: Guard | None = None
        if isinstance(app, Starlette):
            layers: list[Any] = list(app.user_middleware)
            if len(layers) == 1 and layers[0].cls is Gate:
                self._guard = layers[0].args[0].guard
            if self._guard is not None or not layers:
                self._routes = list(app.routes)
        self._targets: dict[bytes, Target | None] = {}
        self._default: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")

    def target(self, url: bytes) -> Target | None:
        """Where a POST to `url` goes the short way; None where it goes the long one."""
        found = self._targets.get(url, _NOTHING)
        if found is _NOTHING:
            found = self._find(url)
            if len(self._targets) < _KEPT:
                self._targets[url] = found
        return found  # type: ignore[return-value]

    def admits(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the guard lets a request pass; the others are refused on the long way."""
        return self._guard is None or admits(self._guard, headers)

    def default(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The headers of every answer, written down; uvicorn makes a new list each second."""
        if self._default[0] is not headers:
            text = b"".join([b"%b: %b\r\n" % header for header in headers])
            self._default = (headers, text)
        return self._default[1]

    def _find(self, url: bytes) -> Target | None:
        # What is escaped or has a query is left to those who know all about it.
        if not self._routes or not url.isascii() or b"%" in url or b"?" in url:
            return None
        path = url.decode("ascii")
        if scope_of("POST", path) != "infer":
            return None
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "root_path": ""}
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.NONE:
                continue
            if match is Match.FULL and isinstance(route, Route):
                endpoint = found["endpoint"]
                if isinstance(endpoint, Endpoint) and route.app is endpoint:
                    return endpoint, path, found["path_params"]
            return None
        return None


class ExpressCycle:
    """One request and its answer. It stands where uvicorn's own cycle would.

    length: of the body. prefix: its bytes before the first binary tensor. held: what counts the
    bytes of a large body while they come in; one that there is no room for is refused at once, and
    the rest of it is read and thrown away.
    """

    __slots__ = (
        "_filled",
        "_flow",
        "_gone",
        "_held",
        "_on_response",
        "_refused",
        "_scratch",
        "_transport",
        "_waiter",
        "_watched",
        "body",
        "disconnected",
        "headers",
        "keep_alive",
        "length",
        "message_event",
        "more_body",
        "response_complete",
        "target",
        "task",
    )

    def __init__(
        self,
        target: Target,
        headers: dict[bytes, bytes],
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        length: int,
        prefix: int,
        keep_alive: bool,
        on_response: Callable[[], None],
        held: Hold | None = None,
    ) -> None:
        self.target = target
        self.headers = headers
        self._transport = transport
        self._flow = flow
        self._on_response = on_response
        self._waiter: asyncio.Future[None] | None = None
        self._filled = 0
        self._held = held
        self._refused: Overloaded | None = None
        self._scratch = memoryview(b"")  # for what is thrown away
        self._watched = False  # while the answer is computed
        self._gone = False  # the client left meanwhile
        self.task: asyncio.Task[None] | None = None  # that answers
        self.length = length
        self.body: bytes | memoryview = b"" if length <= SMALL else _room(length, prefix)
        # What uvicorn's protocol reads and writes.
        self.more_body = True
        self.disconnected = False
        self.keep_alive = keep_alive
        self.response_complete = False
        self.message_event = self

    def set(self) -> None:
        """All of the body is here, or the client has left."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._watched and self.disconnected and self.task is not None:
            self._gone = True
            self.task.cancel()

    def __enter__(self) -> None:
        """From here on a client that leaves ends the computing of its answer.

        Raise `Disconnected` where it left while its request was decoded.
        """
        if self.disconnected:
            raise Disconnected
        self._watched = True

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Raise `Disconnected` where it has left."""
        self._watched = False
        if self._gone and kind is asyncio.CancelledError and self.task is not None:
            self.task.uncancel()
            raise Disconnected from None

    def feed(self, chunk: bytes) -> None:
        """The next part of the body."""
        if isinstance(self.body, bytes):
            self.body = self.body + chunk if self.body else chunk
        else:
            if self._refused is None:
                self.body[self._filled : self._filled + len(chunk)] = chunk
            self.advance(len(chunk))

    def rest(self) -> memoryview:
        """Where the rest of a large body is to be written; empty once all of it is here."""
        if self._refused is not None:
            return self._scratch[: self.length - self._filled]
        return memoryview(self.body)[self._filled :]

    def advance(self, count: int) -> None:
        """`count` bytes were written into `rest()`."""
        self._filled += count
        if self._held is None or self._refused is not None:
            return
        try:
            self._held.grow(count)
        except Overloaded as error:
            self._refused = error
            self._scratch = memoryview(bytearray(SMALL))
            self.set()

    async def run(self, default_headers: bytes, tasks: MutableSet[asyncio.Task[Any]]) -> None:
        """Answer, and write a small answer at once; then leave `tasks`."""
        try:
            while self.more_body and not self.disconnected and self._refused is None:
                await self._wait()
            if self.disconnected:
                return
            if self._held is not None:
                self._held.let_go()
            endpoint, path, parameters = self.target
            sent = self._refused or self.body
            call = Call("POST", path, self.headers, parameters, self._receive, sent, self)
            reply = await endpoint.respond(call)
            if reply is None or self.disconnected:
                return
            self._write(reply, default_headers)
            if self._flow.write_paused:
                await self._flow.drain()
            self.response_complete = True
            self.set()
            if not self.keep_alive:
                self._transport.close()
            self._on_response()
        finally:
            # A callback of the task would cost a turn of the loop.
            if self.task is not None:
                tasks.discard(self.task)
                self.task = None
            if self._held is not None:
                self._held.let_go()
            self.body = b""  # who still needs it holds it; an idle connection shall not

    def _write(self, reply: Reply, default_headers: bytes) -> None:
        parts = [STATUS_LINE[reply.status], default_headers]
        for name, value in reply.headers:
            parts += (name, b": ", value, b"\r\n")
            if name == b"connection" and value == b"close":
                self.keep_alive = False
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"content-length: %d\r\n\r\n" % len(reply.body))
        if len(reply.body) > SMALL:
            self._transport.write(b"".join(parts))
            self._transport.write(reply.body)
        else:
            parts.append(reply.body)
            self._transport.write(b"".join(parts))

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _receive(self) -> MutableMapping[str, Any]:
        """Wait until the client leaves: all of the body is here, so nothing else can come."""
        while not self.disconnected and not self.response_complete:
            await self._wait()
        return {"type": "http.disconnect"}


class _Reader(asyncio.BufferedProtocol):
    """Says where the socket's bytes go; all else is for the connection to hear."""

    def __init__(self, others: asyncio.Protocol) -> None:
        self._others = others

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return self._others.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._others.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._others.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._others.resume_writing()


class BodyReader(_Reader):
    """Reads the rest of a large body from the socket straight to where it belongs."""

    def __init__(
        self,
        cycle: ExpressCycle,
        heard: Callable[[], None],
        done: Callable[[], None],
        others: asyncio.Protocol,
    ) -> None:
        super().__init__(others)
        self._cycle = cycle
        self._heard = heard
        self._done = done

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to write to."""
        return self._cycle.rest()

    def buffer_updated(self, nbytes: int) -> None:
        """Some more is there."""
        self._heard()
        self._cycle.advance(nbytes)
        if not self._cycle.rest():
            self._done()


class HeadReader(_Reader):
    """Reads a little at a time, where another large body is likely to follow.

    What an event loop reads ahead with a head, a quarter of a megabyte, is copied three times until
    it is where it belongs.
    """

    def __init__(self, others: asyncio.Protocol) -> None:
        super().__init__(others)
        self._memory = memoryview(bytearray(_HEAD))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to write to."""
        return self._memory

    def buffer_updated(self, nbytes: int) -> None:
        """Some more is there; it may be the last that is read here."""
        self._others.data_received(bytes(self._memory[:nbytes]))


def _room(length: int, prefix: int) -> memoryview:
    """Memory for a body, laid out so that what follows its prefix is aligned.

    It is not touched: a client that announces much and sends nothing takes none of it.
    """
    memory = np.empty(length + _ALIGNMENT, np.uint8)
    start = -(memory.ctypes.data + prefix) % _ALIGNMENT
    return memory[start : start + length].data
