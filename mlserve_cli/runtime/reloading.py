"""SIGHUP: take over what has changed in the configuration, without a pause in the answers.

The keys, the certificate and the models' folder are looked at again, and the settings in `LIVE`
take effect. What cannot change in a running server is said, and waits for the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from . import settings
from .errors import MlserveError
from .monitoring import access_log, logs
from .security import is_loopback
from .settings import Settings

if TYPE_CHECKING:
    from .server import Server

log = logging.getLogger(f"{logs.NAME}.reloading")

LIVE = (
    "access_log",
    "keys",
    "log_format",
    "log_level",
    "max_inflight_mb",
    "max_package_mb",
    "max_queue_ms",
    "max_queue_rows",
    "shutdown_grace_s",
    "shutdown_timeout_s",
    "sizing",  # of a model that is loaded from now on
    "tls_cert",
    "tls_key",
    "versions",
    "watch_s",
)
"""Settings that a running server can change."""

_running: set[asyncio.Task[None]] = set()  # the event loop alone would let go of them


def begin(server: Server) -> None:
    """Reload soon, once those that have begun are done; what is to be done at a signal."""
    task = asyncio.get_running_loop().create_task(_reload_or_say(server, tuple(_running)))
    _running.add(task)
    task.add_done_callback(_running.discard)


async def _reload_or_say(server: Server, before: Sequence[asyncio.Task[None]]) -> None:
    if before:
        await asyncio.wait(before)
    try:
        await reload(server)
    except Exception as error:
        known = isinstance(error, MlserveError)
        log.error("the configuration was not taken: %s", error, exc_info=None if known else error)


async def reload(server: Server) -> None:
    """Read the configuration again and take what can be taken.

    Raises `SettingsError` for a file that is wrong; then all stays as it was.
    """
    old = server.settings
    file = server.file
    new = old
    if file is not None and file.is_file():
        new = await asyncio.to_thread(settings.load, file)
    new, waiting = merged(old, new)
    server.settings = new
    for name in _changed(old, new):
        log.info("%s is %s now; it was %s", name, _shown(new, name), _shown(old, name))
    for name in waiting:
        log.warning("%s has changed, which takes effect when the server starts again", name)
    if (new.log_format, new.log_level) != (old.log_format, old.log_level):
        logs.set_up(new.log_format, new.log_level)
    if new.access_log != old.access_log:
        server.watchers.log(new.access_log, access_log.write)
    server.settings_changed()
    server.guard.reload(new)
    if server.tls.enabled:
        await asyncio.to_thread(server.tls.reload, new)
        if server.rpc is not None:
            await server.rpc.renew(server.tls)
    await server.lifecycle.rescan()
    log.info("the configuration was read again")


def merged(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """`old` with what may change taken from `new`; the names of what has to wait."""
    changed = _changed(old, new)
    live = [name for name in changed if name in LIVE]
    if "keys" in live and not (new.keys or old.insecure or is_loopback(old.host)):
        live.remove("keys")  # nobody would be asked for a key any more
    if not (old.tls_cert and new.tls_cert and new.tls_key):  # a port speaks TLS or it does not
        live = [name for name in live if not name.startswith("tls_")]
    taken: dict[str, Any] = {name: getattr(new, name) for name in live}
    return msgspec.structs.replace(old, **taken), [name for name in changed if name not in live]


def _changed(old: Settings, new: Settings) -> list[str]:
    names = Settings.__struct_fields__
    return [name for name in names if getattr(old, name) != getattr(new, name)]


def _shown(found: Settings, name: str) -> str:
    value = getattr(found, name)
    return "a table" if name in settings.TABLES else repr(value)
