"""What all prediction endpoints share: a raw ASGI application with one place for its errors.

Starlette's Request and Response double the cost of a small prediction, so these endpoints speak
ASGI (version 3, "HTTP & WebSocket Message Format") themselves; Starlette only routes to them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import body
from ..errors import InvalidRequest, RequestError, TooLarge
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

    __slots__ = ("arrived", "headers", "model", "parameters", "receive", "unread")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.arrived = time.monotonic()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.receive = receive
        self.unread = True  # the body, or a part of it
        self.parameters: dict[str, str] = scope["path_params"]
        self.model: LoadedModel | None = None  # filled in once it is known, for the metrics

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

    def __init__(self, server: Server) -> None:
        self.server = server
        self.limit_bytes = int(server.settings.max_body_mb * (1 << 20))

    async def answer(self, call: Call) -> Reply:
        """Make the reply. May raise `RequestError`."""
        raise NotImplementedError

    async def body(self, call: Call) -> bytes:
        """Read the request's body with its limits."""
        sent = await body.read(call.headers, call.receive, limit_bytes=self.limit_bytes)
        call.unread = False
        return await body.unpack(call.headers, sent, limit_bytes=self.limit_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        call = Call(scope, receive)
        refused: RequestError | None = None
        try:
            reply = await self.answer(call)
        except RequestError as error:
            refused = error
            reply = Reply(errors.encode(error), error.status, [JSON, *errors.headers(error)])
        except body.Disconnected:
            self._count(call, _CLIENT_LEFT, None)
            return
        except Exception as error:
            reply = Reply(errors.unexpected(error), 500)
        self._count(call, reply.status, refused)
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [*reply.headers, (b"content-length", b"%d" % len(reply.body))],
            }
        )
        if isinstance(refused, TooLarge) and call.unread:
            await send({"type": "http.response.body", "body": reply.body, "more_body": True})
            await body.drain(receive)
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": reply.body})

    def model(self, call: Call) -> LoadedModel:
        """The model that the path names. Raises `NotFound`."""
        parameters = call.parameters
        call.model = self.server.registry.get(parameters["model"], parameters.get("version"))
        return call.model

    def _count(self, call: Call, status: int, error: RequestError | None) -> None:
        if call.model is None:
            self.server.metrics.count(self.protocol, status, error=error)
        else:
            seconds = time.monotonic() - call.arrived
            call.model.metrics.answered(self.protocol, status, seconds, error)
