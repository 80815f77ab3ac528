"""A line for a request; the settings say for which."""

from __future__ import annotations

import logging
from typing import Any

from . import logs
from .record import FAILED, Record, trace_id

log = logging.getLogger(f"{logs.NAME}.requests")


def write(record: Record) -> None:
    """Write the line of a request. A `Watcher`."""
    level = logging.WARNING if record.status == FAILED else logging.INFO
    if not log.isEnabledFor(level):
        return
    facts: dict[str, Any] = {
        "request_id": record.request_id,
        "protocol": record.protocol,
        "operation": record.operation,
        "status": record.status,
        "ms": round(record.seconds * 1e3, 3),
    }
    if record.model:
        facts |= {
            "model": record.model,
            "version": record.version,
            "queue_ms": round(record.timing.queue_s * 1e3, 3),
            "compute_ms": round(record.timing.compute_s * 1e3, 3),
            "batch_rows": record.timing.batch_rows,
        }
    if record.reason:
        facts["reason"] = record.reason
    trace = trace_id(record.traceparent)
    if trace is not None:
        facts["trace_id"] = trace
    # In text a line stands for itself; as JSON the facts are keys of their own.
    log.log(
        level,
        "%s %d in %.1f ms, request %s",
        record.operation,
        record.status,
        record.seconds * 1e3,
        record.request_id,
        extra=facts,
    )
