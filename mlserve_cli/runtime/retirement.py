"""Models that were taken out of the traffic: they answer who holds them, then they are freed.

Whoever answers a request refers to its model until the answer is on its way, from before the body
was read. So a model that nobody refers to any more has no request left, and a weak reference tells
when that is: nothing is counted on the way of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import weakref

from . import background
from .monitoring import logs
from .registry import LoadedModel

log = logging.getLogger(f"{logs.NAME}.retirement")

Key = tuple[str, str]
"""A model's name and version."""


class Retirement:
    """The models of one server that are on their way out. It lives on the event loop.

    limit_s: how long a request may hold its model, and how long draining may take; it can be
    another one for the models to come.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._hurry = asyncio.Event()
        self._remains: dict[asyncio.Task[None], _Remains] = {}

    def add(self, model: LoadedModel) -> None:
        """Free a model once nobody holds it any more. It is in no registry."""
        remains = _Remains(model, asyncio.get_running_loop())
        task = asyncio.create_task(self._free(remains))
        self._remains[task] = remains
        task.add_done_callback(lambda done: self._remains.pop(done, None))

    def pending(self) -> list[Key]:
        """Name and version of each."""
        return [remains.key for remains in self._remains.values()]

    async def finish(self) -> None:
        """Wait for no holders any more, only for work that was taken; return when all are freed."""
        self._hurry.set()
        await self.freed()

    async def freed(self) -> None:
        """Return when all are freed."""
        while self._remains:
            await asyncio.wait(self._remains)

    def give_up(self) -> None:
        """Tell who has no answer yet that the server stops."""
        for remains in self._remains.values():
            remains.batcher.close()

    def close(self) -> None:
        """Leave what is not freed yet to the end of the process."""
        for task in self._remains:
            task.cancel()

    async def _free(self, remains: _Remains) -> None:
        limit_s = self.limit_s
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            for seconds in (min(_PATIENCE_S, limit_s), limit_s):
                await asyncio.wait(
                    (remains.gone, hurry),
                    timeout=seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if remains.gone.done() or hurry.done():
                    break
                gc.collect()  # circles of a package's own code may hold it, and nobody else
        finally:
            hurry.cancel()
        drained = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await remains.batcher.drain()
                drained = True
        remains.batcher.close()
        if not drained:  # a run may still be using its engines
            log.warning("%s %s did not drain within %g s", *remains.key, limit_s)
            return
        await background.alone(remains.close, name="freeing")
        log.info("%s %s is freed", *remains.key)


_PATIENCE_S = 1.0  # for requests to end; a collection takes milliseconds, as most is frozen


class _Remains:
    """What has to be closed of a model, without a reference to the model itself."""

    def __init__(self, model: LoadedModel, loop: asyncio.AbstractEventLoop) -> None:
        self.key = (model.manifest.name, model.manifest.version)
        self.batcher = model.batcher
        self.gone: asyncio.Future[None] = loop.create_future()
        self._engines = list(model.engines)

        def tell() -> None:  # from whichever thread let go of it last
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._is_gone)

        weakref.finalize(model, tell).atexit = False

    def close(self) -> None:
        """Free the engines and give their memory back to the system."""
        while self._engines:
            self._engines.pop().close()
        background.give_memory_back()

    def _is_gone(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
