"""One answered request, as the access log and the traces are told of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Literal

from ..timing import Timing

LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a request once it was answered.

    operation: "POST /v2/models/digits/infer" or a gRPC method. model, version: empty where the
    request reached none. status: of HTTP, or what a gRPC status corresponds to. seconds: from its
    head to its answer. finished_ns: since 1970. reason: why it was refused. traceparent,
    tracestate: as sent (W3C Trace Context).
    """

    operation: str
    protocol: str
    model: str
    version: str
    status: int
    seconds: float
    timing: Timing
    request_id: str
    finished_ns: int
    reason: str = ""
    traceparent: str = ""
    tracestate: str = ""


Watcher = Callable[[Record], None]
"""Told of every request, on the event loop, after its answer is made; must not block or raise."""

FAILED = 500
"""What failed by itself. A server that is full (503) or too late (504) refuses by rule: it would
drown in lines about that, and the metrics count it."""


class Watchers:
    """Who is told of which requests: of all of them, or of those that failed by themselves."""

    def __init__(self) -> None:
        self._tracing: Watcher | None = None
        self._failing: Watcher | None = None
        self._logging: tuple[Watcher | None, Watcher | None] = (None, None)
        self._every: tuple[Watcher, ...] = ()
        self._failed: tuple[Watcher, ...] = ()

    def of(self, status: int) -> tuple[Watcher, ...]:
        """Who is told of a request with that status; mostly nobody, and no record is made then."""
        return self._failed if status == FAILED else self._every

    def trace(self, watcher: Watcher | None) -> None:
        """Tell `watcher` of every request from now on."""
        self._tracing = watcher
        self._gather()

    def failures(self, watcher: Watcher) -> None:
        """Tell `watcher` of every request that failed by itself, from now on."""
        self._failing = watcher
        self._gather()

    def log(self, which: Literal["off", "failures", "all"], watcher: Watcher) -> None:
        """Tell `watcher` of those requests from now on, in place of the one before."""
        self._logging = {
            "off": (None, None),
            "failures": (None, watcher),
            "all": (watcher, watcher),
        }[which]
        self._gather()

    def _gather(self) -> None:
        every, failed = self._logging
        self._every = tuple(each for each in (every, self._tracing) if each is not None)
        wishes = (failed, self._tracing, self._failing)
        self._failed = tuple(each for each in wishes if each is not None)


_prefix = secrets.token_hex(6)
_numbers = count(1)


def new_id() -> str:
    """An id that no other request of this or another server has."""
    return f"{_prefix}-{next(_numbers):x}"


def sent_id(header: bytes) -> str | None:
    """A client's own X-Request-Id; None where it could not stand in a header or a log line."""
    if not header or len(header) > LONGEST_ID or not header.isascii():
        return None
    text = header.decode("ascii")
    return text if text.isprintable() else None


def trace_id(traceparent: str) -> str | None:
    """The trace that a request belongs to; None where the header is not one of version 00.

    W3C Trace Context, section 3.2: version "-" trace-id "-" parent-id "-" flags.
    """
    parts = traceparent.split("-")
    if len(parts) < 4 or len(parts[1]) != 32 or parts[1] == "0" * 32:
        return None
    return parts[1] if all(c in "0123456789abcdef" for c in parts[1]) else None
