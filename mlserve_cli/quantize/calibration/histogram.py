"""How the values of one tensor are spread over its range, in a fixed number of bins.

The range is known beforehand, from a first pass for the extremes. Histograms that grow with what
they see would save that pass, but their bins, and so the result, would depend on the order of the
rows and on how they were cut into batches, and old counts would have to be spread over new bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.runtime.tensors import Array

BINS = 2048
"""Eight for each of the 256 steps: cuts are placed to an eighth of a step."""


@dataclass(slots=True)
class Histogram:
    """Counts and sums of the values that fell into each of `BINS` equal bins over `range`."""

    range: Range
    counts: Array
    sums: Array

    @classmethod
    def over(cls, range: Range) -> Histogram:
        """An empty one."""
        return cls(range, np.zeros(BINS, np.int64), np.zeros(BINS, np.float64))

    @property
    def width(self) -> float:
        """Of one bin."""
        return self.range.width / BINS

    @property
    def mass(self) -> int:
        """The number of values that were added."""
        return int(self.counts.sum())

    def add(self, values: Array) -> None:
        """Count values, any shape; one outside the range counts as its nearest end."""
        flat = np.asarray(values, np.float64).ravel()
        if self.width <= 0:
            self.counts[0] += flat.size
            self.sums[0] += flat.sum()
            return
        flat = np.clip(flat, self.range.low, self.range.high)
        bins = np.minimum(((flat - self.range.low) / self.width).astype(np.int64), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)
        self.sums += np.bincount(bins, weights=flat, minlength=BINS)

    def means(self) -> Array:
        """The mean of the values of each bin, its middle where it has none: (BINS,) float64."""
        middle = self.range.low + (np.arange(BINS) + 0.5) * self.width
        means: Array = np.divide(self.sums, self.counts, out=middle, where=self.counts > 0)
        return means
