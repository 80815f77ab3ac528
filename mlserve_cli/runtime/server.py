"""A server from start to end: load, warm up, prove, serve, drain.

    lifespan    loads every model on the way in, drains and frees them on the way out
    serve       runs the application with uvicorn on a socket of our own, and owns the signals

SIGTERM: readiness turns to no at once; the listener goes on for the grace period, so that a load
balancer can look elsewhere; then it closes, work in flight ends, and the process exits with 0.
SIGINT (Ctrl-C) leaves out the grace; a second signal leaves out the waiting. Who has no answer by
then is told that the server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import uvicorn

from . import announcement
from .batcher import Batcher
from .connection import Connection
from .dataplane import DataPlane
from .errors import StartupError
from .hardware import Hardware, detect
from .loading import Prepared, prepare
from .monitoring import logs
from .monitoring.metrics import Metrics
from .registry import LoadedModel, Registry
from .repository import Found, find
from .settings import Settings
from .worker import InlineWorker, ThreadWorker, Worker

log = logging.getLogger(f"{logs.NAME}.server")

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_FLUSH_S = 0.2  # for the last answers to reach their sockets


class Server:
    """What the routes of an application share. The constructor only stores.

    root: the folder that `settings.models` is relative to.
    """

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings = settings
        self.root = root
        self.registry = Registry()
        self.metrics = Metrics()
        self.dataplane = DataPlane(
            processing_threads=settings.processing_threads, max_payloads=settings.max_queue_rows
        )
        self.accepting = False
        self._gave_up = False

    @cached_property
    def hardware(self) -> Hardware:
        """What this process may use; looked at once, when it is first asked for."""
        return detect()

    def ready(self) -> bool:
        """Whether a prediction would succeed: models are loaded and the server is not stopping."""
        models = self.registry.models()
        return self.accepting and bool(models) and all(model.ready for model in models)

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Load every model, let the block serve, then drain. Raises `StartupError` and others."""
        abandon = threading.Event()
        try:
            packages = await asyncio.to_thread(find, self.root / self.settings.models)
            self._warn_of_names({found.manifest.name for found in packages})
            for found in packages:
                await self._load(found, abandon)
            # What was loaded stays: the collector need not look at it again and again.
            gc.collect()
            gc.freeze()
            self.set_accepting(True)
            yield
        finally:
            abandon.set()
            self.set_accepting(False)
            await self._unload()
            gc.unfreeze()

    def set_accepting(self, accepting: bool) -> None:
        """Turn readiness on or off; requests are answered either way while there are models."""
        self.accepting = accepting
        self.metrics.is_ready = self.ready()

    def give_up(self) -> None:
        """Wait for nothing more: whoever has no answer yet is told that the server stops."""
        self._gave_up = True
        for model in self.registry.models():
            model.batcher.close()

    def out_of_time(self) -> None:
        """Give up, and say why."""
        log.warning(
            "work in flight did not end within shutdown_timeout_s, %g s",
            self.settings.shutdown_timeout_s,
        )
        self.give_up()

    def _warn_of_names(self, names: set[str]) -> None:
        for name in self.settings.sizing.keys() - names:
            log.warning("there is a sizing for '%s', and no model of that name", name)

    async def _load(self, found: Found, abandon: threading.Event) -> None:
        manifest = found.manifest
        began = time.perf_counter()
        wanted = self.settings.sizing.get(manifest.name)
        prepared = await asyncio.to_thread(
            lambda: prepare(found, wanted, self.hardware, abandon=abandon)
        )
        chosen = prepared.sizing
        metrics = self.metrics.model(manifest.name, manifest.version)
        batcher = Batcher(
            _workers(prepared, f"{manifest.name}-{manifest.version}"),
            max_batch=manifest.fixed_batch
            or min(chosen.max_batch, manifest.batch.max_batch or chosen.max_batch),
            max_queue_rows=self.settings.max_queue_rows,
            max_delay_ms=chosen.max_delay_ms,
            merge=manifest.fixed_batch is None and manifest.batch.invariant,
            observer=metrics,
        )
        self.registry.add(
            LoadedModel(
                manifest=manifest,
                path=found.path,
                processor=prepared.processor,
                sizing=chosen,
                batcher=batcher,
                metrics=metrics,
                engines=prepared.engines,
            )
        )
        seconds = time.perf_counter() - began
        metrics.loaded(seconds)
        log.info(
            "%s %s (%s) is ready after %.2f s: %d × %d threads, batches of up to %d%s",
            manifest.name,
            manifest.version,
            manifest.variant,
            seconds,
            chosen.instances,
            chosen.threads,
            batcher.max_batch,
            ", on the event loop" if chosen.inline else "",
        )

    async def _unload(self) -> None:
        models = self.registry.models()
        try:
            async with asyncio.timeout(self.settings.shutdown_timeout_s):
                for model in models:
                    await model.batcher.drain()
        except TimeoutError:
            self.out_of_time()
        self.registry.clear()
        for model in models:
            model.batcher.close()
            if not self._gave_up:  # else a run may still be using it
                for engine in model.engines:
                    engine.close()
        self.dataplane.close()


def _workers(prepared: Prepared, name: str) -> list[Worker]:
    """A worker for each instance. Called on the event loop that they report to."""
    workers: list[Worker] = []
    for instance in range(prepared.sizing.instances):
        engine = prepared.engines[instance % len(prepared.engines)]
        if prepared.sizing.inline:
            workers.append(InlineWorker(engine))
        else:
            workers.append(ThreadWorker(engine, name=f"{name}-{instance}"))
    return workers


def serve(app: Any, server: Server, *, announce: Callable[[str], None] | None = None) -> None:
    """Serve `app` until a signal ends it; `announce` gets the base URL once it is ready.

    Raises `StartupError` when the address cannot be listened at, and what loading raises.
    """
    logs.set_up(server.settings.log_format)
    listener = bind(server.settings.host, server.settings.port)
    try:
        with asyncio.Runner(loop_factory=_event_loop()) as runner:
            runner.run(_serve(app, server, listener, announce or partial(_announce, server)))
    finally:
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


def base_url(listener: socket.socket) -> str:
    """`http://host:port` as a client on this machine writes it."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve(
    app: Any, server: Server, listener: socket.socket, announce: Callable[[str], None]
) -> None:
    _warn_of_exposure(listener)
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    host, port = listener.getsockname()[:2]
    web = _Web(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",  # entered below, so that what it raises reaches our caller
            log_config=None,
            access_log=False,
            server_header=False,
            # Ours comes first, with an answer; this one only cuts off who still sends a body.
            timeout_graceful_shutdown=math.ceil(server.settings.shutdown_timeout_s) + 1,
        )
    )
    stopping = False

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
            loop.call_later(grace, setattr, web, "should_exit", True)
            loop.call_later(grace + server.settings.shutdown_timeout_s, server.out_of_time)

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    web.on_started = lambda: announce(base_url(listener))
    try:
        async with app.router.lifespan_context(app):
            try:
                listener.listen(web.config.backlog)  # uvloop would hide why it cannot
                await web.serve(sockets=[listener])
            except OSError as error:  # another one began to listen here while we loaded
                raise _not_listening(host, port, error) from error
    except asyncio.CancelledError:
        log.info("stopped while loading")
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


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


def _warn_of_exposure(listener: socket.socket) -> None:
    host = listener.getsockname()[0]
    if not ipaddress.ip_address(host).is_loopback:
        log.warning("listening at %s: everybody who reaches this machine can send requests", host)
