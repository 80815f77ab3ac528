"""API keys, and the file that keeps them: names, scopes and hashes, never a key itself.

    {"keys": [{"name": "web", "scopes": ["infer"], "sha256": "9f86…", "created": "2026-01-31"}]}

A key is 256 random bits, so one round of SHA-256 is all that a hash needs: there is nothing to
guess. A slow hash, as passwords want, would only cost every request its time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .errors import SettingsError

Scope = Literal["infer", "admin"]

SCOPES: tuple[Scope, ...] = ("infer", "admin")

_MARK = "mls_"  # what a secret scanner can look for


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of one key. `expires` is the first day on which it is not taken any more."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    created: date
    expires: date | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether it is good for `scope`. Who may change a model may also ask it."""
        return scope in self.scopes or "admin" in self.scopes

    def expired(self) -> bool:
        """Whether its time is over; days begin at midnight UTC."""
        return self.expires is not None and datetime.now(UTC).date() >= self.expires


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[Key]


def make(name: str, scopes: Iterable[Scope], *, expires: date | None = None) -> tuple[Key, str]:
    """A new key: what is kept of it, and the text that its owner sends, which nobody has again.

    Raises `SettingsError` where the name or the scopes cannot be.
    """
    text = _MARK + secrets.token_urlsafe(32)
    found = {
        "name": name,
        "scopes": sorted(set(scopes), key=SCOPES.index),
        "sha256": digest(text),
        "created": datetime.now(UTC).date(),
        "expires": expires,
    }
    try:
        return msgspec.convert(found, Key), text
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"a key cannot have the name '{name}' and the scopes {found['scopes']}.",
            hint="a name is up to 64 letters, digits and . _ @ -; scopes are infer and admin",
        ) from error


def digest(text: str) -> str:
    """The hash under which a key is kept."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def read(path: Path) -> list[Key]:
    """The keys in a file. Raises `SettingsError` saying what is wrong with it."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File).keys
    except FileNotFoundError:
        raise SettingsError(
            f"the keys file '{path}' does not exist.",
            hint=f"mlserve keys add NAME --file {path}",
        ) from None
    except OSError as error:
        raise SettingsError(f"the keys file '{path}' cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"'{path}' is no keys file: {error}.") from error
    names = [key.name for key in found]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"the keys file '{path}' has the name '{name}' twice.")
    return found


def write(path: Path, keys: Iterable[Key]) -> None:
    """Put a keys file in place in one step, readable by its owner alone where it is new.

    A file that is there keeps its mode, so that a server of another user can go on reading it.
    """
    target = path.resolve()  # where it is a link, what it leads to is replaced
    text = msgspec.json.format(msgspec.json.encode(_File(list(keys))), indent=2)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                _take_over(target, Path(name))
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SettingsError(
            f"the keys file '{path}' cannot be written: {error.strerror}."
        ) from error


def _take_over(old: Path, new: Path) -> None:
    """Give `new` the mode of `old`, and its group where we may."""
    status = old.stat()
    if status.st_gid != new.stat().st_gid:
        os.chown(new, -1, status.st_gid)
    new.chmod(status.st_mode & 0o777)
