"""The 256 values that an asymmetric 8-bit tensor can take, as ONNX Runtime's writer places them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.runtime.tensors import Array

LEVELS = 256


@dataclass(frozen=True, slots=True)
class Grid:
    """value = (level - zero) · scale, with levels 0 … 255; zero itself is always one of them."""

    scale: float
    zero: int

    @classmethod
    def over(cls, range: Range) -> Grid:
        """The grid that covers a range."""
        low, high = min(range.low, 0.0), max(range.high, 0.0)
        scale = (high - low) / (LEVELS - 1)
        if scale < np.finfo(np.float32).tiny:
            return cls(1.0, 0)
        return cls(scale, int(np.round(-low / scale)))

    def levels(self, values: Array) -> Array:
        """The level that each value is rounded to, as float64."""
        found: Array = np.clip(np.round(values / self.scale) + self.zero, 0, LEVELS - 1)
        return found

    def nearest(self, values: Array) -> Array:
        """What is left of each value after rounding and clipping."""
        return (self.levels(values) - self.zero) * self.scale
