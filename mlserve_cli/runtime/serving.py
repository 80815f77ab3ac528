"""Run an application until a signal ends it: sockets, uvicorn, signals.

SIGTERM: readiness turns to no at once; the listener goes on for the grace period, so that a load
balancer can look elsewhere; then it closes, work in flight ends, and the process exits with 0.
SIGINT (Ctrl-C) leaves out the grace; a second signal leaves out the waiting. Who has no answer by
then is told that the server stops. SIGHUP reads the configuration again; see `reloading`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from . import announcement, compat, reloading
from .connection import Connection
from .errors import StartupError
from .express import Express
from .monitoring import logs
from .security import is_loopback

if TYPE_CHECKING:
    from .rpc.listener import RpcServer
    from .server import Server
    from .settings import Settings

log = logging.getLogger(f"{logs.NAME}.serving")

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_FLUSH_S = 0.2  # for the last answers to reach their sockets


def serve(app: Any, server: Server, *, announce: Callable[[str], None] | None = None) -> None:
    """Serve `app` until a signal ends it; `announce` gets the base URL once it is ready.

    Raises `StartupError` when the address cannot be listened at, and what loading raises.
    """
    logs.set_up(server.settings.log_format, server.settings.log_level)
    check_exposure(server.settings)
    server.guard.load()
    if server.tls.enabled:
        server.tls.load()
    listeners: list[socket.socket] = []
    try:
        for port in compat.http_ports(server.settings):
            listeners.append(bind(server.settings.host, port))  # noqa: PERF401 - closed if one fails
        with asyncio.Runner(loop_factory=_event_loop()) as runner:
            runner.run(_serve(app, server, listeners, announce or partial(_announce, server)))
    finally:
        for listener in listeners:
            listener.close()


def bind(host: str, port: int) -> socket.socket:
    """A socket at that address, not listening yet. Raises `StartupError` when that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:  # a name that cannot even be looked up
        raise StartupError(f"the host '{host}' is not known.", hint="--host 127.0.0.1") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _not_listening(host, port, error) from error
    return listener


def base_url(listener: socket.socket, *, tls: bool = False) -> str:
    """`http://host:port` as a client on this machine writes it."""
    scheme = "https" if tls else "http"
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _serve(
    app: Any,
    server: Server,
    listeners: Sequence[socket.socket],
    announce: Callable[[str], None],
) -> None:
    _warn_of_exposure(server.settings)
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    web = _Web(
        uvicorn.Config(
            app,
            http=partial(Connection, express=Express(app)),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",  # entered below, so that what it raises reaches our caller
            log_config=None,
            access_log=False,
            server_header=False,
            ssl_context_factory=(lambda *_: server.tls.load()) if server.tls.enabled else None,
        )
    )
    stopping = False
    ending: asyncio.Task[None] | None = None

    def end() -> None:
        nonlocal ending
        # Our own end comes first, with an answer; this one only cuts off who still sends a body.
        web.config.timeout_graceful_shutdown = math.ceil(server.settings.shutdown_timeout_s) + 1
        web.should_exit = True
        if server.rpc is not None:
            ending = loop.create_task(server.rpc.stop(server.settings.shutdown_timeout_s))

    def stop(number: signal.Signals) -> None:
        nonlocal stopping
        if not web.started and main is not None:
            main.cancel()  # still loading: there is nothing to end gracefully
        elif stopping:
            server.give_up()
            web.should_exit = True
            loop.call_later(_FLUSH_S, setattr, web, "force_exit", True)
        else:
            stopping = True
            server.set_accepting(False)
            grace = server.settings.shutdown_grace_s if number == signal.SIGTERM else 0.0
            loop.call_later(grace, end)
            loop.call_later(grace + server.settings.shutdown_timeout_s, server.out_of_time)

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    terminal = sys.stdin is not None and sys.stdin.isatty()

    def hang_up() -> None:
        if terminal and not sys.stdin.isatty():  # it was closed, and we with it
            stop(signal.SIGTERM)
        else:
            reloading.begin(server)

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    web.on_started = lambda: announce(base_url(listeners[0], tls=server.tls.enabled))
    try:
        async with app.router.lifespan_context(app):
            server.rpc = await _start_rpc(server)
            try:
                for listener in listeners:
                    _listen(listener, web.config.backlog)
                await web.serve(sockets=list(listeners))
            finally:
                if ending is not None:
                    await ending
                elif server.rpc is not None:
                    await server.rpc.stop(None)
                server.rpc = None
    except asyncio.CancelledError:
        log.info("stopped while loading")
    finally:
        for number in (*SIGNALS, signal.SIGHUP):
            loop.remove_signal_handler(number)


def _listen(listener: socket.socket, backlog: int) -> None:
    """Begin to listen; uvloop would hide why it cannot. Raises `StartupError`."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(backlog)
    except OSError as error:  # another one began to listen here while we loaded
        raise _not_listening(host, port, error) from error


async def _start_rpc(server: Server) -> RpcServer | None:
    """Listen for gRPC where that is wanted. Raises `StartupError`."""
    ports = compat.grpc_ports(server.settings)
    if not ports:
        return None
    from . import rpc

    return await rpc.start(server, server.settings.host, ports)


class _Web(uvicorn.Server):
    """uvicorn, without its own idea of signals: it would close the listener first."""

    on_started: Callable[[], None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_serve`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell."""
        await super().startup(sockets)
        if self.started and self.on_started is not None:
            self.on_started()


def _event_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    with contextlib.suppress(ImportError):  # there is none on some platforms
        import uvloop

        loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return loop
    return asyncio.new_event_loop


def _announce(server: Server, url: str) -> None:
    for line in announcement.lines(server, url):
        log.info("%s", line)


def _not_listening(host: str, port: int, error: OSError) -> StartupError:
    return StartupError(
        f"the server cannot listen at {host}:{port}: {error.strerror or error}.",
        hint="take another port with --port or MLSERVE_PORT; 0 takes a free one",
    )


def check_exposure(settings: Settings) -> None:
    """Raise `StartupError` where everybody who reaches this machine would be answered."""
    if is_loopback(settings.host) or settings.keys or settings.insecure:
        return
    raise StartupError(
        f"the host '{settings.host}' lets others than this machine send requests, and no API key "
        "is asked for.",
        hint="'mlserve keys add NAME' makes a key and its file, to be given with --keys or "
        "MLSERVE_KEYS; --insecure or MLSERVE_INSECURE=1 answers everybody",
    )


def _warn_of_exposure(settings: Settings) -> None:
    if is_loopback(settings.host):
        return
    if not settings.keys:
        log.warning(
            "listening at %s without API keys: whoever reaches this machine can send requests",
            settings.host,
        )
    elif not settings.tls_cert:
        log.warning(
            "listening at %s without TLS: API keys can be read on the way, unless a proxy in "
            "front of this server has TLS",
            settings.host,
        )
