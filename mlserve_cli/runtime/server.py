"""What the routes of an application share: models, the data plane, metrics, readiness.

Its lifespan loads every model on the way in, and drains and frees them on the way out. `serving`
runs an application around it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dataplane import DataPlane
from .feedback.memory import Memory
from .feedback.pairs_file import PairsFile
from .hardware import Hardware, detect
from .journal import folder_of
from .lifecycle import Lifecycle
from .monitoring import access_log, logs
from .monitoring.metrics import Metrics
from .monitoring.record import Record, Watchers
from .operations import Operations
from .readiness import Readiness
from .registry import Registry
from .security import Guard
from .settings import FILE, Settings
from .tls import Tls
from .traffic import Traffic

if TYPE_CHECKING:
    from .monitoring.traces import Traces
    from .rpc.listener import RpcServer

log = logging.getLogger(f"{logs.NAME}.server")


class Server:
    """What the routes of an application share. The constructor only stores.

    root: the folder that `settings.models` is relative to.
    """

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings = settings
        self.root = root
        self.registry = Registry()
        self.file: Path | None = root / FILE  # read again at SIGHUP, where there is one
        self.guard = Guard(settings, root)
        self.tls = Tls(settings, root)
        self.metrics = Metrics()
        self.traffic = Traffic(self.registry, self.metrics)
        self.lifecycle = Lifecycle(self)
        self.operations = Operations(self)
        self.memory: Memory | None = None  # of predictions, where truth about them may come
        if settings.feedback_rows:
            self.memory = Memory(settings.feedback_rows, self.traffic.arm)
            self.metrics.registry.register(self.memory.tallies)
        self.pairs = self._pairs()
        self.dataplane = DataPlane(
            processing_threads=settings.processing_threads,
            max_payloads=settings.max_queue_rows,
            max_bytes=int(settings.max_inflight_mb * (1 << 20)),
            memory=self.memory,
        )
        self.readiness = Readiness(self)
        self.watchers = Watchers()
        self.watchers.failures(self._failed)
        self.rpc: RpcServer | None = None  # while gRPC is served
        self.accepting = False

    def settings_changed(self) -> None:
        """Let limits and the like of other settings hold, in the midst of serving."""
        settings = self.settings
        self.dataplane.limit(
            max_payloads=settings.max_queue_rows,
            max_bytes=int(settings.max_inflight_mb * (1 << 20)),
        )
        self.lifecycle.settings_changed()

    @cached_property
    def hardware(self) -> Hardware:
        """What this process may use; looked at once, when it is first asked for."""
        return detect()

    def ready(self) -> bool:
        """Whether models are loaded and the server is not stopping.

        Whether they would answer as well is for `readiness` to say.
        """
        models = self.registry.models()
        return self.accepting and bool(models) and all(model.ready for model in models)

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Load every model, let the block serve, then drain. Raises `StartupError` and others."""
        self.guard.load()
        traces = self._watch()
        try:
            await self.lifecycle.start()
            await self.operations.restore()
            self.set_accepting(True)
            yield
        finally:
            self.lifecycle.abandon()
            self.set_accepting(False)
            await self.lifecycle.close()
            self.operations.close()
            self.dataplane.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    def _pairs(self) -> PairsFile | None:
        """Where predictions go with their truths."""
        folder = folder_of(self.settings.state, self.root)
        limit_mb = self.settings.feedback_file_mb
        if self.memory is None or folder is None or not limit_mb:
            return None
        return PairsFile(folder, limit_mb << 20)

    def _watch(self) -> Traces | None:
        """Set up who is told of each request. Raises `StartupError`."""
        self.watchers.log(self.settings.access_log, access_log.write)
        if self.settings.feedback_file_mb and self.pairs is None:
            why = "feedback_rows is 0" if self.memory is None else "there is no folder for state"
            log.warning("feedback_file_mb is set, and %s: no truth is written down", why)
        traces = None
        if self.settings.traces == "otlp":
            from .monitoring.traces import Traces

            traces = Traces()
            self.watchers.trace(traces)
        return traces

    def set_accepting(self, accepting: bool) -> None:
        """Turn readiness on or off; requests are answered either way while there are models."""
        self.accepting = accepting
        self.changed()

    def changed(self) -> None:
        """Models came, went, broke or recovered, or the server stops: tell those who watch it."""
        self.metrics.is_ready = self.ready() and not self.readiness.broken()
        if self.rpc is not None:
            self.rpc.changed()

    def _failed(self, record: Record) -> None:
        """A request failed by itself: whoever watches the readiness over gRPC looks again."""
        if self.rpc is not None:
            self.rpc.changed()

    def give_up(self) -> None:
        """Wait for nothing more: whoever has no answer yet is told that the server stops."""
        self.lifecycle.give_up()

    def out_of_time(self) -> None:
        """Give up, and say why."""
        log.warning(
            "work in flight did not end within shutdown_timeout_s, %g s",
            self.settings.shutdown_timeout_s,
        )
        self.give_up()
