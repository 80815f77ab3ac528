"""What an operator does to a running server: load, shift traffic, promote, roll back.

Each operation changes the server at once, is kept across a restart, and is written to the audit
log. It knows no protocol; `admin` is the HTTP around it. Every one returns whether the change is
kept, which it is not where the state has no folder or the disk takes no writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import manifest as manifests
from .delivery import put
from .errors import Conflict, InvalidRequest, MlserveError, NotFound, PackageError
from .journal import Caller, Journal, Record, folder_of
from .monitoring import logs
from .state import State, forget, remember
from .traffic import TrafficRule

if TYPE_CHECKING:
    from .server import Server

log = logging.getLogger(f"{logs.NAME}.operations")


class Operations:
    """The changes to one server. It lives on the event loop. The constructor only stores."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.journal = Journal(folder_of(server.settings.state, server.root))
        self._delivering = asyncio.Lock()  # of two packages for one place, one at a time

    @property
    def state(self) -> State:
        """What was changed by hand."""
        return self.journal.state

    async def restore(self) -> None:
        """Bring back what was changed before a restart; what cannot be is warned of, never fatal.

        Called once the models of the settings are loaded, before requests are accepted.
        """
        self._delivering = asyncio.Lock()  # a server may be started again, on another event loop
        await self.journal.open()
        lifecycle, versions = self._server.lifecycle, self._server.registry.versions
        for name, version in self.state.wanted():
            await _try(f"{name} {version} is not loaded", self._load_missing(name, version))
        for name, version in self.state.unwanted():
            if version in versions(name):
                await _try(f"{name} {version} stays loaded", lifecycle.unload(name, version))
        for name, sizes in self.state.instances.items():
            for version, count in sizes.items():
                if version in versions(name):
                    resized = lifecycle.resize(name, version, count)
                    await _try(f"{name} {version} has not {count} instances", resized)
        for name in self.state.rules:
            self._apply(name)

    def close(self) -> None:
        """End what writes the files."""
        self.journal.close()

    async def load(
        self,
        name: str,
        version: str | None = None,
        *,
        reload: bool = False,
        hold: bool = False,
        caller: Caller,
    ) -> bool:
        """Load a version beside live traffic.

        hold: the version that answers now goes on answering, whichever is newest afterwards.
        Raises what `Lifecycle.load` raises.
        """
        async with self._recorded("reload" if reload else "load", name, version, caller) as record:
            await self._load(name, version, reload=reload, hold=hold)
        return record.kept

    async def deploy(
        self,
        folder: Path,
        name: str,
        version: str,
        *,
        replace: bool = False,
        hold: bool = False,
        caller: Caller,
    ) -> bool:
        """Put a package, which lies in a draft of the repository, into its place, and load it.

        One that cannot be loaded is taken out again. Raises `InvalidRequest` for what is no such
        package, `Conflict` where it cannot lie there, and what `load` raises.
        """
        repository = self._server.root / self._server.settings.models
        async with self._recorded("deploy", name, version, caller) as record:
            await asyncio.to_thread(_check_package, folder, name, version)
            async with self._delivering:
                try:
                    delivered = await asyncio.to_thread(put, folder, repository, replace=replace)
                except PackageError as error:
                    raise Conflict(error.message, hint=error.hint) from error
                except OSError as error:
                    raise Conflict(f"the repository takes no writes: {error.strerror}") from error
                reload = delivered.replaced is not None
                try:
                    await self._load(name, version, reload=reload, hold=hold)
                except BaseException:
                    await asyncio.to_thread(delivered.take_back)
                    raise
                await asyncio.to_thread(delivered.settle)
        return record.kept

    async def unload(self, name: str, version: str | None = None, *, caller: Caller) -> bool:
        """Drain and free one version, or all.

        Raises `Conflict` for a version that a rule sends requests to while others are there, and
        what `Lifecycle.unload` raises.
        """
        async with self._recorded("unload", name, version, caller) as record:
            rule = self._server.traffic.rule(name)
            others = [each for each in self._versions(name) if each != version]
            if version is not None and others and rule and version in rule.versions():
                raise Conflict(
                    f"version {version} of model '{name}' is named by its traffic rule",
                    hint="promote another version, or take it out of the rule first",
                )
            gone = [version] if version else self._versions(name)
            await self._server.lifecycle.unload(name, version)
            for each in gone:
                forget(self.state.loaded, name, each)
                remember(self.state.unloaded, name, each)
        return record.kept

    async def resize(self, name: str, version: str | None, count: int, *, caller: Caller) -> bool:
        """Give a version `count` instances."""
        version = version or self.default(name)
        if version is None:
            self._server.registry.get(name)  # raises NotFound in the usual words
            raise NotFound(f"model '{name}' has no version that is loaded")
        async with self._recorded("resize", name, version, caller) as record:
            await self._server.lifecycle.resize(name, version, count)
            self.state.instances.setdefault(name, {})[version] = count
        return record.kept

    async def rescan(self, *, caller: Caller) -> None:
        """Look at the repository again, now."""
        async with self._recorded("rescan", "*", None, caller):
            await self._server.lifecycle.rescan()

    async def set_rule(self, name: str, rule: TrafficRule | None, *, caller: Caller) -> bool:
        """Replace the traffic rule; None takes it away. Raises `InvalidRequest`, `NotFound`."""
        async with self._recorded("rule", name, None, caller) as record:
            self._server.registry.get(name)
            self._change(name, rule)
        return record.kept

    async def canary(
        self, name: str, version: str, percent: float, *, sticky: str | None = None, caller: Caller
    ) -> bool:
        """Send a share of the requests to `version`, the rest to the version that answers now.

        0 percent ends it. Raises `NotFound`, `InvalidRequest`, `Conflict`.
        """
        async with self._recorded("canary", name, version, caller) as record:
            self._server.registry.get(name, version)
            rule = self._server.traffic.rule(name) or TrafficRule()
            changed = msgspec.structs.replace(
                rule,
                default=self._beside(name, version, rule),
                weights={version: percent} if percent else {},
                sticky=sticky or rule.sticky,
            )
            self._change(name, changed)
        return record.kept

    async def promote(self, name: str, version: str | None = None, *, caller: Caller) -> bool:
        """Make a version the default for all; without one, the canary that runs.

        Raises `NotFound`, `InvalidRequest`, `Conflict`.
        """
        async with self._recorded("promote", name, version, caller) as record:
            self._server.registry.get(name)
            rule = self._server.traffic.rule(name) or TrafficRule()
            version = record.version = version or _only_candidate(name, rule)
            self._server.registry.get(name, version)
            before = self.default(name)
            shadow = None if rule.shadow == version else rule.shadow
            changed = msgspec.structs.replace(rule, default=version, weights={}, shadow=shadow)
            self._change(name, changed)
            if before is not None and before != version:
                self._was_default(name, before)
        return record.kept

    async def rollback(self, name: str, *, caller: Caller) -> bool:
        """End the canary and the shadow; where none runs, go back to the default of before.

        A version that was unloaded since is loaded again. Raises `Conflict` where there is nothing
        to go back to, and what `Lifecycle.load` raises.
        """
        async with self._recorded("rollback", name, None, caller) as record:
            self._server.registry.get(name)
            rule = self._server.traffic.rule(name) or TrafficRule()
            if rule.weights or rule.shadow:
                self._change(name, msgspec.structs.replace(rule, weights={}, shadow=None))
            else:
                version = record.version = self._earlier(name, self.default(name))
                await self._load_missing(name, version)
                rule = self._server.traffic.rule(name) or TrafficRule()  # changed meanwhile?
                self._change(name, msgspec.structs.replace(rule, default=version))
                if self.state.earlier.get(name, [])[-1:] == [version]:
                    self.state.earlier[name].pop()
        return record.kept

    async def label(self, name: str, label: str, version: str | None, *, caller: Caller) -> bool:
        """Let a label mean a version; None takes the label away. Raises `NotFound`."""
        async with self._recorded("label", name, version, caller) as record:
            self._server.registry.get(name, version)
            rule = self._server.traffic.rule(name) or TrafficRule()
            labels = {key: value for key, value in rule.labels.items() if key != label}
            if version is not None:
                labels[label] = version
            elif label not in rule.labels:
                raise NotFound(f"model '{name}' has no label '{label}'")
            self._change(name, msgspec.structs.replace(rule, labels=labels))
        return record.kept

    def default(self, name: str) -> str | None:
        """The version that answers where no share is set; None where none does."""
        rule, versions = self._server.traffic.rule(name), self._versions(name)
        if rule is not None and rule.default in versions:
            return rule.default
        return versions[-1] if versions else None

    async def _load(self, name: str, version: str | None, *, reload: bool, hold: bool) -> None:
        before = self.default(name)
        if hold and before not in (None, version):  # it cannot be kept from what it has already
            self._pin(name, before)
        known = set(self._versions(name))
        await self._server.lifecycle.load(name, version, reload=reload)
        for each in (version,) if version else sorted(set(self._versions(name)) - known):
            forget(self.state.unloaded, name, each)
            if not reload:
                remember(self.state.loaded, name, each)
        if before is not None and self.default(name) != before:
            self._was_default(name, before)
        self._apply(name)  # a rule from before a restart may have waited for this version

    def _recorded(
        self, action: str, name: str, version: str | None, caller: Caller
    ) -> AbstractAsyncContextManager[Record]:
        def facts() -> dict[str, Any]:
            rule = self._server.traffic.rule(name)
            shown = None if rule is None else msgspec.to_builtins(rule)
            return {"versions": self._versions(name), "rule": shown}

        return self.journal.recorded(action, name, version, caller, facts)

    def _change(self, name: str, rule: TrafficRule | None) -> None:
        self._server.traffic.set_rule(name, rule)
        if rule is None:
            self.state.rules.pop(name, None)
        else:
            self.state.rules[name] = rule

    def _pin(self, name: str, version: str | None) -> None:
        rule = self._server.traffic.rule(name) or TrafficRule()
        if rule.default is None:
            self._change(name, msgspec.structs.replace(rule, default=version))

    def _apply(self, name: str) -> None:
        """Let a rule of the state hold; one whose versions are missing waits for them."""
        rule = self.state.rules.get(name)
        if rule is None or rule == self._server.traffic.rule(name):
            return
        try:
            self._server.traffic.set_rule(name, rule)
        except MlserveError as error:
            log.warning("the traffic rule of '%s' does not hold: %s", name, error.message)

    def _beside(self, name: str, canary: str, rule: TrafficRule) -> str:
        """The version that answers who is not sent to the canary. Raises `Conflict`."""
        default = self.default(name)
        if default is not None and default != canary:
            return default
        others = [version for version in self._versions(name) if version != canary]
        if rule.default is not None or not others:
            raise Conflict(
                f"version {canary} of model '{name}' answers all requests already",
                hint="promote another one first" if others else "load another version first",
            )
        return others[-1]  # it answered only because it is the newest: the one before goes on

    def _was_default(self, name: str, version: str) -> None:
        earlier = self.state.earlier.setdefault(name, [])
        earlier.append(version)
        del earlier[:-_KEPT]

    def _earlier(self, name: str, now: str | None) -> str:
        """The default before the one of `now`. Raises `Conflict` where there is none."""
        earlier = self.state.earlier.get(name, [])
        while earlier and earlier[-1] == now:
            earlier.pop()
        if not earlier:
            raise Conflict(
                f"model '{name}' has no earlier version to go back to",
                hint="'promote' takes any version that is loaded",
            )
        return earlier[-1]

    def _versions(self, name: str) -> list[str]:
        return self._server.registry.versions(name)

    async def _load_missing(self, name: str, version: str) -> None:
        if version not in self._versions(name):
            await self._server.lifecycle.load(name, version)
            forget(self.state.unloaded, name, version)


_KEPT = 20  # earlier defaults of a model; nobody rolls back further


def _only_candidate(name: str, rule: TrafficRule) -> str:
    shadow = (rule.shadow,) if rule.shadow is not None else ()
    candidates: list[str] = sorted({*rule.weights, *shadow})
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise Conflict(
            f"model '{name}' has no canary that could be promoted", hint="name the version"
        )
    raise InvalidRequest(
        f"model '{name}' has {len(candidates)} candidates: {', '.join(candidates)}",
        hint="name the version",
    )


def _check_package(folder: Path, name: str, version: str) -> None:
    try:
        found = manifests.read(folder)
        manifests.verify_files(folder, found)
    except PackageError as error:
        raise InvalidRequest(error.message.replace(f"{folder}/", ""), hint=error.hint) from error
    if (found.name, found.version) != (name, version):
        raise InvalidRequest(
            f"the package is '{found.name}' version {found.version}, and the path names '{name}' "
            f"version {version}"
        )


async def _try(what: str, work: Awaitable[Any]) -> None:
    try:
        await work
    except MlserveError as error:
        log.warning("after the restart, %s: %s", what, error.message)
