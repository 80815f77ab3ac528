"""Logging to stderr, as text for people or as a JSON object a line for machines."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import msgspec

NAME = "mlserve"
"""Every logger of the runtime is below this one."""

Level = Literal["debug", "info", "warning", "error"]

_ORDINARY = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


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
        return msgspec.json.encode(line, enc_hook=str).decode()


def set_up(style: Literal["text", "json"], level: Level = "info") -> None:
    """Send the runtime's log to stderr, from `level` on; uvicorn's from a warning on.

    Called when a server runs, never on import.
    """
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    number = logging.getLevelNamesMapping()[level.upper()]
    for name, lowest in ((NAME, number), ("uvicorn", max(number, logging.WARNING))):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(lowest)
        logger.propagate = False
