"""What all prediction endpoints share: a raw ASGI application with one place for its errors.

Starlette's Request and Response double the cost of a small prediction, so these endpoints speak
ASGI (version 3, "HTTP & WebSocket Message Format") themselves; Starlette only routes to them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import body
from ..errors import InvalidRequest, RequestError, TooLarge, release
from ..monitoring.record import Record, new_id, sent_id
from ..timing import Timing
from . import errors

if TYPE_CHECKING:
    from ..registry import LoadedModel
    from ..server import Server

Scope = MutableMapping[str, Any]
Receive = body.Receive
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

_CLIENT_LEFT = 499  # as nginx logs it; it is only ever counted

JSON: Header = (b"content-type", b"application/json")
BINARY: Header = (b"content-type", b"application/octet-stream")


@dataclass(slots=True)
class Reply:
    """What is sent back; the length is added."""

    body: bytes
    status: int = 200
    headers: list[Header] = field(default_factory=lambda: [JSON])


class Call:
    """One request, while it is answered."""

    __slots__ = (
        "alias",
        "arrived",
        "headers",
        "method",
        "model",
        "parameters",
        "path",
        "payload",
        "priority",
        "receive",
        "request_id",
        "timing",
        "unread",
        "watch",
    )

    def __init__(
        self,
        method: str,
        path: str,
        headers: dict[bytes, bytes],
        parameters: dict[str, str],
        receive: Receive,
        payload: bytes | memoryview | RequestError | None = None,
        watch: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.arrived = time.monotonic()
        self.method = method
        self.path = path
        self.headers = headers
        self.receive = receive
        self.payload = payload  # the body, where it is here already, or why it was not taken
        self.unread = payload is None  # the body, or a part of it
        self.watch = watch if watch is not None else body.Watch(receive)  # while it is computed
        self.parameters = parameters
        self.priority = 0  # 0: as usual, 1: before all others, and so on; a skin may fill it in
        self.timing = Timing()
        sent = self.headers.get(b"x-request-id")
        self.request_id = (sent_id(sent) if sent is not None else None) or new_id()
        self.alias = ""  # the id inside a message; a skin may fill it in
        self.model: LoadedModel | None = None  # filled in once it is known, for the metrics

    @property
    def named(self) -> bool:
        """Whether it asks for a version or a label, so that no rule chooses one."""
        return "version" in self.parameters or "label" in self.parameters

    @property
    def content_type(self) -> str:
        """The Content-Type header, or nothing."""
        return self.headers.get(b"content-type", b"").decode("latin-1")

    def deadline(self, timeout_us: int | None = None) -> float | None:
        """When the caller stops waiting, as a `time.monotonic` value; the earlier of its wishes.

        They are the header X-Request-Timeout-Ms and the protocol's own `timeout_us`.
        """
        header = self.headers.get(b"x-request-timeout-ms")
        if header is None and timeout_us is None:
            return None
        wishes = []
        if header is not None:
            try:
                wishes.append(float(header) / 1e3)
            except ValueError:
                wishes.append(float("nan"))
            if not 0 < wishes[0] < float("inf"):
                raise InvalidRequest(
                    f"the header X-Request-Timeout-Ms is '{header.decode('latin-1')}', "
                    "and it must be a number of milliseconds above 0"
                )
        if timeout_us is not None:
            wishes.append(timeout_us / 1e6)
        return self.arrived + min(wishes)


class Endpoint:
    """A raw ASGI endpoint: subclasses turn a `Call` into a `Reply`.

    Errors are translated here and nowhere else: a `RequestError` is told as it is, anything else
    is a bare 500 with an id whose details go to the log.
    """

    protocol = ""
    takes_views = False
    """Whether `body` may be a memoryview, where that saves a copy of a large one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._tells_timing = server.settings.server_timing
        self.limit_bytes = int(server.settings.max_body_mb * (1 << 20))

    async def answer(self, call: Call) -> Reply:
        """Make the reply. May raise `RequestError`."""
        raise NotImplementedError

    async def body(self, call: Call) -> bytes:
        """Read the request's body with its limits."""
        sent = await self.buffer(call)
        return sent if isinstance(sent, bytes) else bytes(sent)

    async def buffer(self, call: Call) -> bytes | memoryview:
        """The same, without a copy of what was read in one piece; for those that take views."""
        sent = call.payload
        if sent is None:
            with self.server.dataplane.receive() as held:
                sent = await body.read(
                    call.headers, call.receive, limit_bytes=self.limit_bytes, grow=held.grow
                )
            call.unread = False
        elif isinstance(sent, RequestError):
            raise sent
        elif len(sent) > self.limit_bytes:
            raise body.too_large(self.limit_bytes)
        if b"content-encoding" in call.headers:
            packed = sent if isinstance(sent, bytes) else bytes(sent)
            with self.server.dataplane.hold(len(packed)):
                return await body.unpack(call.headers, packed, limit_bytes=self.limit_bytes)
        return sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as an ASGI application."""
        call = Call(
            scope["method"], scope["path"], dict(scope["headers"]), scope["path_params"], receive
        )
        reply = await self.respond(call)
        if reply is None:
            return
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        start = {"type": "http.response.start", "status": reply.status, "headers": headers}
        await send(start)
        if reply.status == TooLarge.status and call.unread:
            await send({"type": "http.response.body", "body": reply.body, "more_body": True})
            await body.drain(receive)
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": reply.body})

    async def respond(self, call: Call) -> Reply | None:
        """The reply to one request, counted and told of; None where the client has left."""
        refused: RequestError | None = None
        try:
            reply = await self.answer(call)
        except RequestError as error:
            refused = error
            reply = self.refuse(error)
            release(error)
        except body.Disconnected:
            seconds = self._count(call, _CLIENT_LEFT, None)
            self._tell(call, _CLIENT_LEFT, seconds, None)
            return None
        except Exception as error:
            reply = self.unexpected(error)
            release(error)
        seconds = self._count(call, reply.status, refused)
        self._tell(call, reply.status, seconds, refused)
        reply.headers.append((b"x-request-id", call.request_id.encode("ascii")))
        if self._tells_timing and call.timing.batch_rows:
            reply.headers.append((b"server-timing", _server_timing(call.timing, seconds)))
        return reply

    def refuse(self, error: RequestError) -> Reply:
        """An error that the client is told about, as the protocol words it."""
        return Reply(errors.encode(error), error.status, [JSON, *errors.headers(error)])

    def unexpected(self, error: Exception) -> Reply:
        """A bug of ours: the client gets an id, the log the details."""
        return Reply(errors.unexpected(error), 500)

    def model(self, call: Call, *, field: Callable[[str], str | None] | None = None) -> LoadedModel:
        """The model that answers: the one that the path names, or one of those sharing its traffic.

        field: looks up a value in the request by name, for traffic that sticks to one. Raises
        `NotFound`.
        """
        parameters = call.parameters
        name, version = parameters["model"], parameters.get("version")
        label = parameters.get("label")
        traffic = self.server.traffic
        rule = traffic.rule(name)
        if rule is None or rule.sticky is None:
            call.model = traffic.route(name, version, label=label)
            return call.model
        kind, _, source = rule.sticky.partition(":")
        key: str | None = None
        if kind == "header":
            value = call.headers.get(source.lower().encode("latin-1"))
            key = None if value is None else value.decode("latin-1")
        elif field is not None:
            key = field(source)
        call.model = traffic.route(name, version, label=label, key=key)
        return call.model

    def _count(self, call: Call, status: int, error: RequestError | None) -> float:
        """Count a request; the seconds it took."""
        seconds = time.monotonic() - call.arrived
        if call.model is None:
            self.server.metrics.count(self.protocol, status, error=error)
        else:
            call.model.metrics.answered(self.protocol, status, seconds, error)
        return seconds

    def _tell(self, call: Call, status: int, seconds: float, error: RequestError | None) -> None:
        watchers = self.server.watchers.of(status)
        if not watchers:
            return
        model = call.model
        record = Record(
            operation=f"{call.method} {call.path}",
            protocol=self.protocol,
            model=model.manifest.name if model else "",
            version=model.manifest.version if model else "",
            status=status,
            seconds=seconds,
            timing=call.timing,
            request_id=call.request_id,
            finished_ns=time.time_ns(),
            reason=error.reason if error else "",
            traceparent=call.headers.get(b"traceparent", b"").decode("latin-1"),
            tracestate=call.headers.get(b"tracestate", b"").decode("latin-1"),
        )
        for watcher in watchers:
            watcher(record)


def _server_timing(timing: Timing, seconds: float) -> bytes:
    """What a request waited for, in milliseconds (W3C Server Timing, section 3)."""
    if timing.processing_s:
        return b"queue;dur=%.3f, processing;dur=%.3f, compute;dur=%.3f, total;dur=%.3f" % (
            timing.queue_s * 1e3,
            timing.processing_s * 1e3,
            timing.compute_s * 1e3,
            seconds * 1e3,
        )
    return b"queue;dur=%.3f, compute;dur=%.3f, total;dur=%.3f" % (
        timing.queue_s * 1e3,
        timing.compute_s * 1e3,
        seconds * 1e3,
    )
