"""What one request spent its time on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Timing:
    """Seconds in each stage of one request, filled by those who did the work.

    queued_at: by `time.monotonic`, when it first stood in the queue; 0.0 if it never did.
    queue_s: until a worker took it. processing_s: decoding and encoding payloads, off the loop.
    compute_s: of the batch that it shared. batch_rows: rows in that batch. A request that was split
    has the sums of its parts, and the largest batch.
    """

    queued_at: float = 0.0
    queue_s: float = 0.0
    processing_s: float = 0.0
    compute_s: float = 0.0
    batch_rows: int = 0
