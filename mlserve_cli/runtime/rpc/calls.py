"""What all gRPC methods share: one call at a time, and one place for its errors.

Messages are parsed and written here and not by the library: what cannot be parsed is the client's
error, not a traceback in the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import grpc
from google.protobuf.message import DecodeError

from ..errors import InvalidRequest, RequestError, release
from ..journal import Caller
from ..monitoring.record import Record, new_id, sent_id
from ..protocols import errors
from ..timing import Timing

if TYPE_CHECKING:
    from ..dataplane import Hold
    from ..registry import LoadedModel
    from ..server import Server

Scope = Literal["infer", "admin"]
Metadata = tuple[tuple[str, str], ...]
T = TypeVar("T")

CLIENT_LEFT = 499  # only ever counted, as over HTTP

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class Call:
    """One request, while it is answered."""

    __slots__ = (
        "_context",
        "alias",
        "arrived",
        "held",
        "key",
        "model",
        "named",
        "operation",
        "priority",
        "request_id",
        "timing",
    )

    def __init__(self, operation: str, context: Any) -> None:
        self.arrived = time.monotonic()
        self.operation = operation  # "inference.GRPCInferenceService/ModelInfer"
        self.priority = 0  # 0: as usual, 1: before all others, and so on
        self.timing = Timing()
        self.alias = ""  # the id inside a message
        self.named = False  # asks for a version or a label, so that no rule chooses one
        self.model: LoadedModel | None = None  # filled in once it is known, for the metrics
        self.held: Hold | None = None  # the message's bytes, while it is decoded
        self.key: str | None = None  # the name of the client's, where keys are needed
        self._context = context
        sent = self.metadata("x-request-id")
        self.request_id = (sent_id(sent.encode()) if sent is not None else None) or new_id()

    def metadata(self, name: str) -> str | None:
        """A value that the client sent beside its message; `name` is in small letters."""
        for key, value in self._context.invocation_metadata() or ():
            if key == name and isinstance(value, str):
                return value
        return None

    def let_go(self) -> None:
        """The message is decoded, or refused: its bytes count no more."""
        if self.held is not None:
            self.held.let_go()

    def caller(self) -> Caller:
        """Who asks, for the audit log."""
        kind, _, address = self._context.peer().partition(":")  # "ipv4:127.0.0.1:50051"
        host = address.rpartition(":")[0] if kind in ("ipv4", "ipv6") else None
        return Caller(self.key, host) if self.key else Caller(address=host)

    def deadline(self, timeout_us: int | None = None) -> float | None:
        """When the caller stops waiting, as a `time.monotonic` value; the earlier of its wishes.

        They are the deadline of gRPC and the protocol's own `timeout_us`.
        """
        wishes = []
        remaining = self._context.time_remaining()
        if remaining is not None:
            wishes.append(time.monotonic() + remaining)
        if timeout_us is not None:
            wishes.append(self.arrived + timeout_us / 1e6)
        return min(wishes, default=None)


Answer = Callable[[Any, Call], Awaitable[Any]]
"""Message in, message out. May raise `RequestError`."""


class Calls:
    """Runs calls of one protocol: keys, errors, metrics."""

    def __init__(self, server: Server, protocol: str) -> None:
        self.server = server
        self.protocol = protocol

    def unary(
        self,
        operation: str,
        message: Any,
        answer: Answer,
        *,
        scope: Scope | None,
        counted: bool = False,
    ) -> grpc.RpcMethodHandler:
        """The handler of a method with one request and one reply.

        message: the class of the request. scope: what the client's key must allow; None lets
        everybody in. counted: whether messages hold tensors, and so count as bytes in flight.
        """

        async def handle(body: bytes, context: Any) -> bytes:
            call = Call(operation, context)
            refused: RequestError | None = None
            reply, code, details = b"", None, ""
            try:
                if scope is not None:
                    self.require(call, scope)
                if counted:
                    call.held = self.server.dataplane.hold(len(body))
                reply = (await answer(parse(message, body), call)).SerializeToString()
            except asyncio.CancelledError:
                self.finish(call, CLIENT_LEFT, None)
                raise
            except RequestError as error:
                refused, code, details = error, code_of(error), sentence(error)
                release(error)
            except Exception as error:
                code, details = grpc.StatusCode.INTERNAL, errors.logged(error)
                release(error)
            finally:
                call.let_go()
            status = 200 if code is None else refused.status if refused else 500
            self.finish(call, status, refused)
            context.set_trailing_metadata(trailing(call.request_id, refused))
            if code is not None:
                await context.abort(code, details)
            return reply

        return grpc.unary_unary_rpc_method_handler(handle)

    def require(self, call: Call, scope: Scope) -> None:
        """Let the client in, or raise `Unauthorized` or `Forbidden`."""
        guard = self.server.guard
        if guard.enabled or scope == "admin":
            call.key = guard.require(
                scope,
                authorization=call.metadata("authorization"),
                api_key=call.metadata("x-api-key"),
            )

    def route(
        self,
        call: Call,
        name: str,
        version: str | None,
        *,
        label: str | None = None,
        field: Callable[[str], str | None] | None = None,
    ) -> LoadedModel:
        """The model that answers; an empty version is none. Raises `NotFound`.

        field: looks up a value in the request by name, for traffic that sticks to one.
        """
        traffic = self.server.traffic
        rule = traffic.rule(name)
        key: str | None = None
        if rule is not None and rule.sticky is not None:
            kind, _, source = rule.sticky.partition(":")
            if kind == "header":
                key = call.metadata(source.lower())
            elif field is not None:
                key = field(source)
        call.named = bool(version or label)
        call.model = traffic.route(name, version or None, label=label, key=key)
        return call.model

    def finish(self, call: Call, status: int, error: RequestError | None) -> None:
        """Count a call, and tell who watches. status: of HTTP, as that of gRPC corresponds to."""
        seconds = time.monotonic() - call.arrived
        model = call.model
        if model is None:
            self.server.metrics.count(self.protocol, status, error=error)
        else:
            model.metrics.answered(self.protocol, status, seconds, error)
        watchers = self.server.watchers.of(status)
        if not watchers:
            return
        record = Record(
            operation=call.operation,
            protocol=self.protocol,
            model=model.manifest.name if model else "",
            version=model.manifest.version if model else "",
            status=status,
            seconds=seconds,
            timing=call.timing,
            request_id=call.request_id,
            finished_ns=time.time_ns(),
            reason=error.reason if error else "",
            traceparent=call.metadata("traceparent") or "",
            tracestate=call.metadata("tracestate") or "",
        )
        for watcher in watchers:
            watcher(record)


def parse(message: Any, body: bytes) -> Any:
    """The message in `body`. Raises `InvalidRequest`."""
    try:
        return message.FromString(body)
    except DecodeError as error:
        raise InvalidRequest(
            f"the {len(body)} bytes of the request are no {message.DESCRIPTOR.full_name}"
        ) from error


def code_of(error: RequestError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    return _CODES.get(error.status, grpc.StatusCode.UNKNOWN)


def sentence(error: RequestError) -> str:
    """What a client is told of an error; gRPC has one text for it."""
    text = f"{error.message} (hint: {error.hint})" if error.hint else error.message
    return errors.printable(text)


def trailing(request_id: str, error: RequestError | None) -> Metadata:
    """What follows an answer; a client library that retries by itself waits for the pushback."""
    if error is None or error.retry_after_s is None:
        return (("x-request-id", request_id),)
    return (
        ("x-request-id", request_id),
        ("retry-after", str(error.retry_after_s)),
        ("grpc-retry-pushback-ms", str(error.retry_after_s * 1000)),
    )
