"""Would a prediction succeed? A model that failed since the last question has to show it.

An engine can break while the server runs: a device that is lost, memory that is gone. Whoever asks
whether the server is ready then makes the model answer one of its golden rows. Nothing runs by
itself, and as long as no engine fails the question costs a comparison. Every protocol asks here, so
that all of them say the same.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from . import golden
from .errors import DeadlineExceeded, NotFound, Overloaded, PackageError, Stopping, release
from .manifest import SERVE
from .tensors import Tensors

if TYPE_CHECKING:
    from .registry import LoadedModel
    from .server import Server

PATIENCE_S = 1.0
"""Kubernetes gives a probe one second by default; a model that is only busy keeps its verdict."""


class Readiness:
    """What is known of the models of one server. It lives on the event loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # Failures, and does it work; one that is loaded anew begins with a clean slate.
        self._seen: WeakKeyDictionary[LoadedModel, tuple[int, bool]] = WeakKeyDictionary()
        self._rows: dict[str, Tensors] = {}  # by digest, of the models that failed
        self._asked: dict[LoadedModel, asyncio.Task[bool]] = {}  # models that answer just now

    def broken(self) -> bool:
        """Whether a model did not answer when it was last asked for; nothing is run for this."""
        return any(
            not self._seen.get(model, (0, True))[1] for model in self._server.registry.models()
        )

    async def server(self) -> bool:
        """Whether every model would answer, and the server is not stopping."""
        if not self._server.ready():
            return False
        return all([await self._works(model) for model in self._server.registry.models()])

    async def model(self, name: str, version: str | None) -> bool:
        """Whether one model would; one that is unknown would not."""
        registry = self._server.registry
        if not (self._server.accepting and registry.ready(name, version)):
            return False
        try:
            return await self._works(registry.get(name, version))
        except NotFound:
            return False

    async def _works(self, model: LoadedModel) -> bool:
        """Many who ask at the same time share one run: anybody may, and a run costs the engine."""
        works = True
        for _ in range(2):
            failures = model.metrics.rejections.get("engine", 0)
            before, worked = self._seen.get(model, (0, True))
            if worked and failures == before:
                return True
            asked = self._asked.get(model)
            is_fresh = asked is None
            if asked is None:
                asked = asyncio.create_task(self._ask(model, failures, worked=worked))
                self._asked[model] = asked
                asked.add_done_callback(lambda _: self._asked.pop(model, None))
            works = await asyncio.shield(asked)
            if is_fresh:
                break  # else that run may be of before the failure that this question is about
        return works

    async def _ask(self, model: LoadedModel, failures: int, *, worked: bool) -> bool:
        works = await self._answers(model, worked)
        self._seen[model] = (failures, works)
        if works != worked:
            self._server.changed()
        return works

    async def _answers(self, model: LoadedModel, worked: bool) -> bool:
        """Let it answer its first golden rows. A model that is only busy is what it was before."""
        try:
            deadline = time.monotonic() + PATIENCE_S
            row = await self._row(model)
            await self._server.dataplane.infer(model, row, deadline=deadline, priority=1)
        except (Overloaded, DeadlineExceeded, PackageError):
            return worked
        except Stopping:
            return False
        except Exception as error:  # whatever an engine may raise: a client would get a 500
            release(error)
            return False
        return True

    async def _row(self, model: LoadedModel) -> Tensors:
        digest = model.manifest.digest
        if digest not in self._rows:
            count = model.manifest.fixed_batch or 1
            inputs = (await asyncio.to_thread(golden.read, model.path / SERVE)).inputs
            self._rows[digest] = {
                name: array[:count] if array.ndim else array for name, array in inputs.items()
            }
        return self._rows[digest]
