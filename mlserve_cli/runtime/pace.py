"""How fast a queue moves, learned from the batches that were run."""

from __future__ import annotations

import math

_SMOOTHING = 0.2  # a handful of batches is memory enough


class Pace:
    """Seconds a row takes, as they were lately.

    Lone requests tell little of how fast full batches go, and a slow moment must not be believed
    for ever: of what was seen with others waiting, and of what was seen last, the faster counts.
    An estimate from it is therefore rather too short than too long.
    """

    def __init__(self, *, max_batch: int, workers: int) -> None:
        self._max_batch = max_batch
        self._workers = workers
        self._row_s = 0.0  # of all batches
        self._busy_row_s = 0.0  # of those that left others waiting

    def ran(self, rows: int, seconds: float, *, backlog: bool) -> None:
        """A batch took `seconds`; `backlog`: others were left waiting when it was begun."""
        row_s = seconds / rows
        self._row_s += _SMOOTHING * (row_s - self._row_s)
        if backlog and self._busy_row_s:
            self._busy_row_s += _SMOOTHING * (row_s - self._busy_row_s)
        elif not self._busy_row_s:
            # Until that was seen: as if a full batch took no longer than this one.
            self._busy_row_s = row_s if backlog else seconds / self._max_batch

    def seconds(self, rows: int) -> float:
        """Until `rows` rows will have been run."""
        return rows * min(self._row_s, self._busy_row_s) / self._workers

    def retry_after_s(self, rows: int) -> int:
        """When to come back if `rows` rows wait: whole seconds, 1 to 60."""
        return max(1, min(60, math.ceil(rows * self._row_s / self._workers)))
