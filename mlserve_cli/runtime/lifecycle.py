"""The life of each model version: load, warm up, prove, swap in, drain, free.

A version is loaded beside live traffic and takes its place in one assignment; the old one answers
everybody who holds it, and is freed when nobody does any more. A load that fails changes nothing:
the old version stays, and the index says why.

It lives on the event loop, and changes are made one after another.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from . import background, versions
from .assembly import assemble
from .changes import Changes
from .errors import EngineError, InvalidRequest, MlserveError, NotFound, Stopping
from .index import ModelStatus, index, key_of
from .loading import Abandoned, prepare
from .monitoring import logs
from .registry import LoadedModel
from .repository import Broken, Found, Look, Stamp, find, look
from .retirement import Key, Retirement
from .share import Cores
from .sizing import Sizing

if TYPE_CHECKING:
    from .server import Server

log = logging.getLogger(f"{logs.NAME}.lifecycle")


class Lifecycle:
    """Loads and unloads the models of one server. The constructor only stores."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._look = Look()
        self._by_hand: dict[Key, bool] = {}  # loaded (True) or unloaded, whatever the policy says
        self._sizings: dict[Key, Sizing] = {}  # instances that were set by hand
        self._loading: set[Key] = set()
        self._failed: dict[Key, str] = {}
        self._given_up: dict[Key, Stamp] = {}  # packages that the watch need not try again
        self._retirement = Retirement(server.settings.shutdown_timeout_s)
        self._changes = Changes(self._changed)
        self._abandon = threading.Event()
        self._watch: asyncio.Task[None] | None = None
        self._collects_after: tuple[int, int, int] | None = None
        self._gave_up = False

    # Start and end.

    @cached_property
    def _cores(self) -> Cores:
        """What the models on the CPU share."""
        return Cores(self._server.hardware.physical_cores)

    async def start(self) -> None:
        """Load what the settings want. Raises `PackageError`, `StartupError` and others."""
        # A server may be started again, on another event loop.
        self._changes, self._abandon = Changes(self._changed), threading.Event()
        self._retirement = Retirement(self._server.settings.shutdown_timeout_s)
        self._gave_up = False
        settings = self._server.settings
        versions.check(settings.versions)
        if settings.explicit_control:
            self._look = await asyncio.to_thread(look, self._path)
        else:
            self._look = Look(tuple(await asyncio.to_thread(find, self._path)))
            self._warn_of_names()
            for found in self._chosen():
                await self._load(found, live=False)
        # What was loaded stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        # A request leaves no cycles behind: a look after every 700 new objects is CPU for nothing.
        self._collects_after = gc.get_threshold()
        gc.set_threshold(_COLLECT_AFTER, *self._collects_after[1:])
        self._keep_looking()

    def settings_changed(self) -> None:
        """Take what of the server's settings holds for models that are loaded already."""
        settings = self._server.settings
        for model in self._server.registry.models():
            model.batcher.limit(
                max_queue_rows=settings.max_queue_rows, max_queue_ms=settings.max_queue_ms
            )
        self._retirement.limit_s = settings.shutdown_timeout_s
        self._keep_looking()

    def _keep_looking(self) -> None:
        """Look at the repository every so often from now on, where that is wanted."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._server.settings.watch_s:
            self._watch = asyncio.create_task(self._look_every(self._server.settings.watch_s))

    def abandon(self) -> None:
        """Let a load that is going on end soon."""
        self._abandon.set()

    async def close(self) -> None:
        """Drain every model, then free it."""
        self.abandon()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await self._changes.close()
        registry = self._server.registry
        models = registry.models()
        try:
            async with asyncio.timeout(self._server.settings.shutdown_timeout_s):
                for model in models:
                    await model.batcher.drain()
                await self._retirement.finish()
        except TimeoutError:
            self._server.out_of_time()
        self._retirement.close()
        registry.clear()
        for model in models:
            model.batcher.close()
            if not self._gave_up:  # else a run may still be using it
                for engine in model.engines:
                    engine.close()
        gc.unfreeze()
        if self._collects_after is not None:
            gc.set_threshold(*self._collects_after)

    def give_up(self) -> None:
        """Wait for nothing more: whoever has no answer yet is told that the server stops."""
        self._gave_up = True
        for model in self._server.registry.models():
            model.batcher.close()
        self._retirement.give_up()

    # What can be asked for while it runs. All raise `Stopping` once it is closed.

    async def load(self, name: str, version: str | None = None, *, reload: bool = False) -> None:
        """Load a version beside live traffic; without one, those that the policy wants.

        A version that is loaded and did not change on disk stays as it is, unless `reload`. Raises
        `NotFound` where the repository has none, `InvalidRequest` where it cannot be loaded.
        """
        await self._changes.make(self._load_named(name, version, reload))

    async def unload(self, name: str, version: str | None = None) -> None:
        """Take a version, or all, out of the traffic; it is drained and freed behind the scenes.

        Raises `NotFound` where none is loaded.
        """
        await self._changes.make(self._unload_named(name, version))

    async def rescan(self) -> None:
        """Look at the repository again: load what is new or changed, unload what is gone.

        What cannot be loaded is logged and stands in the index; it raises nothing.
        """
        self._given_up.clear()  # who asks may have mended what was in the way
        await self._changes.make(self._follow())

    async def resize(self, name: str, version: str | None, instances: int) -> None:
        """Give a version that many instances. Raises `NotFound`, `InvalidRequest`."""
        if not 1 <= instances <= _MOST_INSTANCES:
            raise InvalidRequest(
                f"model '{name}' cannot have {instances} instances; 1 to {_MOST_INSTANCES} are "
                "allowed"
            )
        await self._changes.make(self._resize(name, version, instances))

    def index(self) -> list[ModelStatus]:
        """Every version that is loaded, on its way in or out, or on disk; by name and version."""
        return index(
            self._look,
            self._server.registry.models(),
            failed=self._failed,
            unloaded=[key for key, loaded in self._by_hand.items() if not loaded],
            loading=self._loading,
            leaving=self._retirement.pending(),
        )

    # How it is done.

    @property
    def _path(self) -> Path:
        return self._server.root / self._server.settings.models

    def _changed(self) -> None:
        self._server.set_accepting(self._server.accepting)  # readiness may be another now

    async def _look_again(self) -> Look:
        known = {found.path: found for found in self._look.found}
        self._look = await background.alone(lambda: look(self._path, known), name="looking")
        return self._look

    def _chosen(self) -> list[Found]:
        """What the policies want of what is on disk."""
        names = dict.fromkeys(found.manifest.name for found in self._look.found)
        policies = self._server.settings.versions
        return [each for name in names for each in versions.choose(policies, self._look.of(name))]

    def _warn_of_names(self) -> None:
        names = {found.manifest.name for found in self._look.found}
        for name in self._server.settings.sizing.keys() - names:
            log.warning("there is a sizing for '%s', and no model of that name", name)
        for name in self._server.settings.versions.keys() - names - {versions.OTHERS}:
            log.warning("there are versions set for '%s', and no model of that name", name)

    async def _load_named(self, name: str, version: str | None, reload: bool) -> None:
        seen = await self._look_again()
        every = seen.of(name)
        if version is None:
            wanted = versions.choose(self._server.settings.versions, every)
        else:
            wanted = [each for each in every if each.manifest.version == version]
        if not wanted:
            raise self._not_there(name, version, seen.broken)
        for found in wanted:
            key = key_of(found.manifest)
            loaded = self._server.registry.find(*key)
            if loaded is None or reload or loaded.manifest.digest != found.manifest.digest:
                try:
                    await self._load(found, live=True)
                except Stopping:
                    raise
                except MlserveError as error:
                    raise InvalidRequest(
                        f"load failed for model '{name}': version {key[1]} is at UNAVAILABLE "
                        f"state: {error.message}",
                        hint=error.hint,
                    ) from error
            self._by_hand[key] = True

    def _not_there(
        self, name: str, version: str | None, broken: tuple[Broken, ...]
    ) -> MlserveError:
        for each in broken:
            if each.name == name and version in (None, each.version):
                return InvalidRequest(
                    f"load failed for model '{name}': version {each.version} is at UNAVAILABLE "
                    f"state: {each.reason}"
                )
        which = "" if version is None else f" version {version}"
        return NotFound(
            f"failed to load '{name}'{which}, failed to poll from model repository",
            hint=f"no package in '{self._path}' has that name",
        )

    async def _unload_named(self, name: str, version: str | None) -> None:
        registry = self._server.registry
        registry.get(name, version)
        for each in registry.versions(name) if version is None else [version]:
            self._by_hand[name, each] = False
            self._retirement.add(registry.remove(name, each))
            log.info("%s %s takes no more requests", name, each)
        self._server.traffic.refresh(name)

    async def _follow(self) -> None:
        before = {each.path: each.reason for each in self._look.broken}
        seen = await self._look_again()
        for broken in seen.broken:
            if before.get(broken.path) != broken.reason:
                log.warning("'%s' is not served: %s", broken.path, broken.reason)
        if not seen.found:
            log.warning("no package can be seen in '%s': what is loaded stays", self._path)
            return
        registry = self._server.registry
        there = {key_of(found.manifest) for found in seen.found}
        for key in self._failed.keys() - there:
            del self._failed[key]
        wanted = {key_of(found.manifest): found for found in self._wanted()}
        for key, found in wanted.items():
            loaded = registry.find(*key)
            if loaded is not None and loaded.manifest.digest == found.manifest.digest:
                continue
            if self._given_up.get(key) != found.stamp:
                await self._try(found)
        unread = {(each.name, each.version) for each in seen.broken}
        for model in registry.models():
            key = key_of(model.manifest)
            if key not in wanted and key not in unread:
                self._retirement.add(registry.remove(*key))
                self._server.traffic.refresh(key[0])
                log.info("%s %s takes no more requests: it is not wanted any more", *key)

    async def _try(self, found: Found) -> None:
        """Load what nobody is waiting for; where that fails, the log says why."""
        key = key_of(found.manifest)
        try:
            await self._load(found, live=True)
        except Stopping:
            raise
        except Exception as error:
            self._given_up[key] = found.stamp
            known = isinstance(error, MlserveError)
            log.warning(
                "%s %s cannot be loaded: %s", *key, error, exc_info=None if known else error
            )

    def _wanted(self) -> list[Found]:
        """What should be loaded: by the policies, by hand, or because a rule names it."""
        chosen = [] if self._server.settings.explicit_control else self._chosen()
        automatic = {key_of(found.manifest) for found in chosen}
        automatic |= {
            key
            for key in (key_of(found.manifest) for found in self._look.found)
            if (rule := self._server.traffic.rule(key[0])) is not None and key[1] in rule.versions()
        }
        return [
            found
            for found in self._look.found
            if self._by_hand.get(key_of(found.manifest), key_of(found.manifest) in automatic)
        ]

    async def _look_every(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await self._changes.make(self._follow())
            except Stopping:
                return
            except Exception:  # the next look may go well
                log.exception("the repository could not be looked at")

    async def _resize(self, name: str, version: str | None, instances: int) -> None:
        model = self._server.registry.get(name, version)
        if model.sizing.instances == instances:
            return
        key = key_of(model.manifest)
        chosen = msgspec.structs.replace(
            model.sizing,
            instances=instances,
            inline=model.sizing.inline and instances == 1,
            reasons={**model.sizing.reasons, "instances": "set by hand"},
        )
        before = self._sizings.get(key)
        self._sizings[key] = chosen
        try:
            await self._load(Found(model.path, model.manifest), live=True)
        except BaseException:
            del self._sizings[key]
            if before is not None:
                self._sizings[key] = before
            raise

    async def _load(self, found: Found, *, live: bool) -> None:
        """Load, warm up, prove, swap in. Raises what `prepare` raises; then nothing changed."""
        key = key_of(found.manifest)
        began = time.perf_counter()
        self._loading.add(key)
        try:
            wanted = self._sizing(key, live)
            hardware = await asyncio.to_thread(lambda: self._server.hardware)
            prepared = await background.alone(
                lambda: prepare(found, wanted, hardware, abandon=self._abandon, live=live)
            )
        except Abandoned:
            raise Stopping("the server is shutting down", retry_after_s=1) from None
        except MlserveError as error:
            self._failed[key] = error.message
            self._server.metrics.model(*key).load_failed()
            raise
        except Exception as error:  # an engine, or processing.py, of the user's own
            reason = self._failed[key] = f"{type(error).__name__}: {error}"
            self._server.metrics.model(*key).load_failed()
            log.error("%s %s failed while it was loaded", *key, exc_info=error)
            raise EngineError(f"'{key[0]}' {key[1]} cannot be loaded: {reason}.") from error
        finally:
            self._loading.discard(key)
        self._failed.pop(key, None)
        self._given_up.pop(key, None)
        model = assemble(
            found,
            prepared,
            settings=self._server.settings,
            metrics=self._server.metrics.model(*key),
            cores=self._cores,
        )
        replaced = self._server.registry.add(model)
        self._server.traffic.refresh(key[0])
        if replaced is not None:
            self._retirement.add(replaced)
        seconds = time.perf_counter() - began
        model.metrics.loaded(seconds)
        _tell(model, seconds)

    def _sizing(self, key: Key, live: bool) -> Sizing | None:
        """How it is to be run; None where that has to be measured."""
        known = self._sizings.get(key) or self._server.settings.sizing.get(key[0])
        if known is not None or not live:
            return known
        # Beside live traffic a measurement says little: what is right for its siblings will do.
        siblings = self._server.registry.versions(key[0])
        return self._server.registry.get(key[0], siblings[-1]).sizing if siblings else None


_MOST_INSTANCES = 256

_COLLECT_AFTER = 10_000
"""Objects more than before, until the collector looks for cycles among the new ones."""


def _tell(model: LoadedModel, seconds: float) -> None:
    manifest, chosen = model.manifest, model.sizing
    log.info(
        "%s %s (%s) is ready after %.2f s: %d × %d threads, batches of up to %d%s",
        manifest.name,
        manifest.version,
        manifest.variant,
        seconds,
        chosen.instances,
        chosen.threads,
        model.batcher.max_batch,
        ", on the event loop" if chosen.inline else "",
    )
