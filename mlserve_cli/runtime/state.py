"""What an operator changed while the server ran, kept across a restart in one small file.

The file is replaced in one rename, so a crash leaves the old one or the new one. One that cannot
be read is put aside with a warning: a server without its rules is better than no server.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from .monitoring import logs
from .traffic import TrafficRule

log = logging.getLogger(f"{logs.NAME}.state")

FILE = "state.json"
SCHEMA = 1


class State(msgspec.Struct, kw_only=True):
    """The changes, by model name; versions are texts. What is not here is as the settings say."""

    schema: int = SCHEMA
    rules: dict[str, TrafficRule] = {}
    earlier: dict[str, list[str]] = {}  # the versions that were the default before, newest last
    loaded: dict[str, list[str]] = {}  # loaded by hand, whatever the version policy says
    unloaded: dict[str, list[str]] = {}  # unloaded by hand
    instances: dict[str, dict[str, int]] = {}  # set by hand, by version

    def to_json(self) -> bytes:
        """The text of the file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def wanted(self) -> list[tuple[str, str]]:
        """The (name, version) that must be loaded, whatever the settings say; rules' as well."""
        found = {name: list(versions) for name, versions in self.loaded.items()}
        for name, rule in self.rules.items():
            for version in sorted(rule.versions()):
                remember(found, name, version)
        for name, version in self.unwanted():
            forget(found, name, version)
        return [(name, version) for name, versions in found.items() for version in versions]

    def unwanted(self) -> list[tuple[str, str]]:
        """The (name, version) that must not be loaded."""
        return [(name, version) for name, each in self.unloaded.items() for version in each]


class _Header(msgspec.Struct):
    schema: int


class StateFile:
    """Where the state is kept. Without a path it is kept nowhere, and is lost with the process."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self) -> State:
        """The state, or an empty one where there is none. Never raises.

        A file that is damaged, or that a newer version wrote, is moved to `state.json.aside`.
        """
        if self.path is None:
            return State()
        try:
            text = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return State()
        except OSError as error:
            log.warning("'%s' cannot be read, so no rule holds: %s", self.path, error.strerror)
            return State()
        try:
            schema = msgspec.json.decode(text, type=_Header).schema
            if schema != SCHEMA:
                raise msgspec.ValidationError(f"its schema is {schema}, and {SCHEMA} is known")
            return msgspec.json.decode(text, type=State)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            aside = self.path.with_name(f"{self.path.name}.aside")
            with contextlib.suppress(OSError):
                self.path.replace(aside)
            log.warning(
                "'%s' is damaged (%s), so no rule holds; it was moved to '%s'",
                self.path,
                error,
                aside,
            )
            return State()

    def write(self, text: bytes) -> bool:
        """Replace the file in one step → whether it is on the disk. Never raises."""
        if self.path is None:
            return False
        hidden = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with hidden.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(self.path)
            _flush_folder(self.path.parent)
        except OSError as error:
            log.warning(
                "'%s' cannot be written, so this change is lost with the process: %s",
                self.path,
                error.strerror,
            )
            with contextlib.suppress(OSError):
                hidden.unlink()
            return False
        return True


def remember(where: dict[str, list[str]], name: str, version: str) -> None:
    """Put a version into the list of a model, once."""
    if version not in where.setdefault(name, []):
        where[name].append(version)


def forget(where: dict[str, list[str]], name: str, version: str) -> None:
    """Take a version out of the list of a model, if it is there."""
    if version in where.get(name, ()):
        where[name].remove(version)
        if not where[name]:
            del where[name]


def _flush_folder(folder: Path) -> None:
    """Bring the rename itself to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
