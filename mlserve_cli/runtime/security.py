"""Who may ask for what: API keys by scope, and what is allowed where there are none.

With a keys file every request needs a key, but for the probes. Without one inference is open, and
what changes the server is only for this machine: a server that listens elsewhere has no admin API.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import keys
from .errors import Forbidden, SettingsError, Unauthorized
from .keys import Key, Scope
from .monitoring import logs

if TYPE_CHECKING:
    from .settings import Settings

log = logging.getLogger(f"{logs.NAME}.security")

RECHECK_S = 1.0
"""How often, at most, a request makes us look whether the keys file has changed."""

_HINT = "send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"


class Guard:
    """Decides for each request. The constructor only stores; `load` reads the keys.

    Until then a server with a keys file takes no key at all.
    """

    def __init__(self, settings: Settings, root: Path) -> None:
        self.enabled = bool(settings.keys)
        """Whether requests need a key."""
        self.local = is_loopback(settings.host)
        """Whether only this machine can reach the server."""
        self._root = root
        self._path = root / settings.keys
        self._keys: dict[str, Key] = {}  # by hash
        self._seen: tuple[int, int, int] | None = None
        self._checked = 0.0

    def load(self) -> None:
        """Read the keys file. Raises `SettingsError`; what was loaded before stays then."""
        if not self.enabled:
            return
        self._checked = time.monotonic()
        self._seen = self._state()
        found = keys.read(self._path)
        self._keys = {key.sha256: key for key in found}

    def require(
        self, scope: Scope, *, authorization: str | None, api_key: str | None
    ) -> str | None:
        """Let a request pass that may do `scope` → the name of its key; None where none is needed.

        authorization: the header, as Bearer, or as Basic with the key for a password. api_key: the
        header X-API-Key. Raises `Unauthorized` without a key that is known, `Forbidden` where it is
        not good for `scope`.
        """
        if not self.enabled:
            if scope == "admin" and not self.local:
                raise Forbidden(
                    "without API keys a server that others can reach cannot be administered",
                    hint="'mlserve keys add NAME --scope admin' makes a key; "
                    "then set keys to its file",
                )
            return None
        self._look_again()
        sent = api_key or _key_in(authorization)
        if not sent:
            raise Unauthorized("this server needs an API key", hint=_HINT)
        key = self._keys.get(keys.digest(sent))
        if key is None:
            raise Unauthorized("the API key is not known", hint=_HINT)
        if key.expired():
            raise Unauthorized(f"the API key '{key.name}' has expired")
        if not key.allows(scope):
            raise Forbidden(f"the API key '{key.name}' lacks the scope {scope}")
        return key.name

    def _look_again(self) -> None:
        """Take a keys file that was changed; one that cannot be read changes nothing."""
        now = time.monotonic()
        if now - self._checked < RECHECK_S:
            return
        self._checked = now
        state = self._state()
        if state == self._seen:
            return
        self.reload()

    def reload(self, settings: Settings | None = None) -> None:
        """Read the keys again, from where `settings` have them now.

        Where that cannot be, those that were known stay, and why is said.
        """
        before = {key.name for key in self._keys.values()}
        path, enabled = self._path, self.enabled
        if settings is not None:
            self._path, self.enabled = self._root / settings.keys, bool(settings.keys)
        try:
            self.load()
        except SettingsError as error:
            # A path that cannot be read asks for keys nevertheless: nobody gets in by mistake.
            self._path, self.enabled = path, enabled or self.enabled
            log.error("%s The keys that were known stay.", error.message)
            return
        if not self.enabled:
            return
        after = {key.name for key in self._keys.values()}
        log.info(
            "API keys: %d; added: %s; removed: %s",
            len(after),
            ", ".join(sorted(after - before)) or "none",
            ", ".join(sorted(before - after)) or "none",
        )

    def _state(self) -> tuple[int, int, int] | None:
        """What changes when the file does: one inode is written anew, another put in its place."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


def _key_in(authorization: str | None) -> str:
    kind, _, value = (authorization or "").strip().partition(" ")
    match kind.lower():
        case "bearer":
            return value.strip()
        case "basic":  # what a browser can send
            try:
                text = base64.b64decode(value.strip(), validate=True).decode()
            except (binascii.Error, ValueError):
                return ""
            return text.partition(":")[2]
        case _:
            return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
