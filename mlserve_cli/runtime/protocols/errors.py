"""Errors on the wire: `{"error": text}`, with a `hint` where there is one, and Retry-After."""

from __future__ import annotations

import logging
import secrets

from .. import json_text
from ..errors import RequestError
from ..monitoring import logs

_LONGEST = 2000  # characters of a sentence; ours are shorter, so the end is the client's own

log = logging.getLogger(f"{logs.NAME}.requests")


def encode(error: RequestError) -> bytes:
    """The JSON body of an error that a client is told about."""
    document = {"error": printable(error.message)}
    if error.hint:
        document["hint"] = printable(error.hint)
    return json_text.encode(document)


def headers(error: RequestError) -> list[tuple[bytes, bytes]]:
    """The headers that belong to it, beside its content type."""
    found = []
    if error.status == 413:
        found.append((b"connection", b"close"))  # the rest of the body is not worth reading
    if error.retry_after_s is not None:
        found.append((b"retry-after", b"%d" % error.retry_after_s))
    return found


def unexpected(error: Exception) -> bytes:
    """The JSON body for a bug of ours: an id, by which the log has all of it."""
    return json_text.encode({"error": logged(error)})


def logged(error: Exception) -> str:
    """Log a bug of ours with all its details; what the client is told of it."""
    identity = secrets.token_hex(8)
    log.error("request failed, error id %s", identity, exc_info=error)
    return f"internal error; the server's log has it as {identity}"


def printable(text: str) -> str:
    """A sentence that can be sent: what it quotes of a client may be no Unicode, or megabytes."""
    shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return shown.encode("utf-8", "replace").decode()
