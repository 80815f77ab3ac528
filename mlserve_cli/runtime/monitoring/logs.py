"""Logging to stderr, as text for people or as a JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any, Literal

import msgspec

NAME = "mlserve"
"""Every logger of the runtime is below this one."""

Level = Literal["debug", "info", "warning", "error"]

_ORDINARY = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""What ends a line, or tells a terminal what to do; a client can put it into a path."""


class TextFormatter(logging.Formatter):
    """A line for people, which stays one line whatever a client had a part in."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line, before the traceback."""
        return _CONTROL.sub(_escaped, super().formatMessage(record).rstrip("\n"))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _ORDINARY}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:  # the name of a file may be no Unicode
            return json.dumps(line, default=str)


def set_up(style: Literal["text", "json"], level: Level = "info") -> None:
    """Send the runtime's log to stderr, from `level` on; uvicorn's from a warning on.

    Called when a server runs, never on import.
    """
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter())
    number = logging.getLevelNamesMapping()[level.upper()]
    for name, lowest in ((NAME, number), ("uvicorn", max(number, logging.WARNING))):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(lowest)
        logger.propagate = False
