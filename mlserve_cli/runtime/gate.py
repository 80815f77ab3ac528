"""The guard in front of an application's routes: pure ASGI middleware.

It looks at the path alone, so it stands before routing, and a route that somebody adds is behind it
from the start. What a browser sends on behalf of another site is told by its headers: the network
cannot reach a server on loopback, and a page in a browser of this machine can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import Forbidden, RequestError, Unauthorized
from .journal import Caller
from .keys import Scope
from .protocols import errors, torchserve_errors
from .protocols.endpoint import JSON, Header, Receive, Send
from .protocols.endpoint import Scope as Connection
from .security import Guard, is_loopback

if TYPE_CHECKING:
    from starlette.requests import Request

    from .server import Server

KEY = "mlserve.key"
"""In a request's scope: the name of the key that it came with."""

PROBES = frozenset({"/livez", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"})

_MODEL_READY = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/ready")
"""The probe of one model; gRPC's `ModelReady` needs no key either."""

_TORCHSERVE = ("/models", "/predictions", "/explanations", "/invocations")

_CHALLENGE = b'Bearer realm="mlserve", Basic realm="mlserve", charset="UTF-8"'
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1

_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")
"""What a proxy adds. To us everybody behind one that runs here comes from this machine."""


class Gate:
    """Lets through what the server's guard allows, and answers the rest itself."""

    def __init__(self, app: Any, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        kind = scope["type"]
        if kind in ("http", "websocket"):
            path = _route_path(scope)
            guard = self._server.guard
            needed = scope_of(scope.get("method", "GET"), path)
            if needed == "admin" or (needed == "infer" and guard.enabled):
                try:
                    scope[KEY] = _admit(guard, needed, scope, dict(scope["headers"]))
                except RequestError as error:
                    self._server.metrics.count("", error.status, error=error)
                    await _refuse(error, path, kind, send)
                    return
        await self._app(scope, receive, send)


def scope_of(method: str, path: str) -> Scope | None:
    """What a request must be allowed to do; None for the probes, which nobody is kept from."""
    if path in PROBES or (method == "GET" and _MODEL_READY.fullmatch(path)):
        return None
    if (
        path.startswith("/admin")
        # Also where somebody has mounted the routes under a path of their own.
        or "/admin/v1/" in path
        or "/v2/repository/models/" in path
        or (method in ("POST", "PUT", "DELETE") and _is_below(path, "/models"))
    ):
        return "admin"
    return "infer"


def caller(request: Request) -> Caller:
    """Who asks, for the audit log: the gate leaves the name of the key in the scope."""
    name = request.scope.get(KEY) or "anonymous"
    return Caller(str(name), request.client.host if request.client else None)


def is_torchserves(path: str) -> bool:
    """Whether a path is of TorchServe's APIs, where errors are worded as there."""
    return any(_is_below(path, prefix) for prefix in _TORCHSERVE)


def admits(guard: Guard, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request for an inference passes; who does not is told why by the `Gate`."""
    if not guard.enabled:
        return True
    try:
        _check_key(guard, "infer", headers)
    except RequestError:
        return False
    return True


def _admit(
    guard: Guard, needed: Scope, scope: Connection, headers: Mapping[bytes, bytes]
) -> str | None:
    """Raises `Unauthorized` or `Forbidden`."""
    name = _check_key(guard, needed, headers)
    if needed == "admin" and not guard.enabled:
        _check_is_of_this_machine(scope, headers)
    return name


def _check_key(guard: Guard, needed: Scope, headers: Mapping[bytes, bytes]) -> str | None:
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    if authorization[:6].lower() == "basic " and _is_of_another_site(headers):
        authorization = ""  # a browser adds it to whatever any page sends here
    return guard.require(
        needed,
        authorization=authorization,
        api_key=headers.get(b"x-api-key", b"").decode("latin-1"),
    )


def _check_is_of_this_machine(scope: Connection, headers: Mapping[bytes, bytes]) -> None:
    """Raise `Forbidden` for what others may have sent, though the server listens on loopback."""
    server = scope.get("server")
    # Another name that leads to a loopback address is how DNS rebinding passes for the same site.
    host = headers.get(b"host", b"localhost").decode("latin-1")
    if server is not None and server[1] is not None and not is_loopback(server[0]):
        why = "the server listens to others than this machine"
    elif not is_loopback(_without_port(host)):
        why = f"the request is for the host '{host}'"
    elif _is_of_another_site(headers):
        why = "a page of another site has sent the request"
    elif any(name in headers for name in _FORWARDED):
        why = "a proxy has passed the request on"
    else:
        return
    raise Forbidden(
        f"without API keys only this machine may administer the server, and {why}",
        hint="'mlserve keys add NAME --scope admin' makes a key; then set keys to its file",
    )


def _is_of_another_site(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that a page from elsewhere sends this (Fetch Metadata; RFC 6454)."""
    origin = headers.get(b"origin")
    if origin is not None:
        return origin.partition(b"://")[2] != headers.get(b"host")
    return headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin")


async def _refuse(error: RequestError, path: str, kind: str, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error.message})
        return
    body = torchserve_errors.encode(error) if is_torchserves(path) else errors.encode(error)
    found: list[Header] = [JSON, (b"content-length", b"%d" % len(body)), *errors.headers(error)]
    if isinstance(error, Unauthorized):
        found.append((b"www-authenticate", _CHALLENGE))
    await send({"type": "http.response.start", "status": error.status, "headers": found})
    await send({"type": "http.response.body", "body": body})


def _route_path(scope: Connection) -> str:
    """The path as routes see it: without what the application is mounted under."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and _is_below(path, root) else path


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not host.endswith("]") else host
