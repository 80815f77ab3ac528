"""The stretch of values that the steps of an 8-bit tensor are spread over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIMIT = 1e30
"""Beyond it stand masks (-inf, the lowest float32) and overflow, never measurements."""


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and largest value that a tensor took, or that its 8 bits shall cover."""

    low: float
    high: float

    def joined(self, other: Range) -> Range:
        """The range that covers both."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    @property
    def width(self) -> float:
        """From the lower end to the upper."""
        return self.high - self.low

    @property
    def usable(self) -> bool:
        """Whether 256 steps over this range could mean anything."""
        return bool(np.isfinite((self.low, self.high)).all()) and (
            max(abs(self.low), abs(self.high)) < LIMIT
        )
