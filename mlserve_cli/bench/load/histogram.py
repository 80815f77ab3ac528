"""Latencies in bounded memory: a histogram whose buckets are a fixed share of their value wide.

The layout is that of HdrHistogram (Tene): each power of two is cut into equally many buckets, so
that a value is known to 0.2 % whether it is ten microseconds or ten minutes. Counts are kept for
each stretch of the run as well, which is what the bootstrap draws from: latencies that follow each
other depend on each other (a stall makes many late), and single ones drawn at random would give an
interval that is too narrow (Carlstein 1986, non-overlapping blocks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlserve_cli.package.interval import Interval, percentile
from mlserve_cli.runtime.tensors import Array

SUB = 256
"""Buckets of a power of two: each is 1/256 to 1/512 of its value wide."""

_LOWEST = 10  # 2 ** 10 ns, about a microsecond: nothing that crosses a socket is quicker
_OCTAVES = 33  # up to 2 ** 43 ns, two and a half hours
BUCKETS = _OCTAVES * SUB

SLICES = 32
"""Stretches of a run that the bootstrap draws from."""

RESAMPLES = 1000


def bucket_of(nanoseconds: Array) -> Array:
    """(n,) int64 → (n,) int64: the bucket of each; what is out of range is in the outermost."""
    mantissa, exponent = np.frexp(np.maximum(nanoseconds, 1 << _LOWEST).astype(np.float64))
    within = ((mantissa * 2 - 1) * SUB).astype(np.int64)
    found = (exponent.astype(np.int64) - _LOWEST - 1) * SUB + within
    clipped: Array = np.minimum(found, BUCKETS - 1)
    return clipped


def middle_ms(buckets: Array) -> Array:
    """(n,) int64 → (n,) float64: the middle of each bucket in milliseconds."""
    octave, within = np.divmod(buckets, SUB)
    found: Array = np.ldexp(1 + (within + 0.5) / SUB, octave + _LOWEST) / 1e6
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """counts: (stretches, BUCKETS) int64. The sum and both ends are exact."""

    counts: Array
    sum_ns: int = 0
    max_ns: int = 0

    @classmethod
    def empty(cls, slices: int = SLICES) -> Histogram:
        """One without values."""
        return cls(np.zeros((slices, BUCKETS), np.int64))

    @classmethod
    def of(cls, milliseconds: Array) -> Histogram:
        """(n,) float64 → the histogram of those, in as many stretches as there are."""
        nanoseconds = np.asarray(np.asarray(milliseconds) * 1e6, np.int64)
        counts = np.zeros((SLICES, BUCKETS), np.int64)
        for part, values in enumerate(np.array_split(nanoseconds, SLICES)):
            np.add.at(counts[part], bucket_of(values), 1)
        return cls(counts, int(nanoseconds.sum()), int(nanoseconds.max(initial=0)))

    def __add__(self, other: Histogram) -> Histogram:
        """Both together; stretch by stretch, as they were measured at the same time."""
        return Histogram(
            self.counts + other.counts,
            self.sum_ns + other.sum_ns,
            max(self.max_ns, other.max_ns),
        )

    @property
    def total(self) -> int:
        """How many values there are."""
        return int(self.counts.sum())

    @property
    def mean_ms(self) -> float:
        """NaN where there are none, as for all that follow."""
        return self.sum_ns / self.total / 1e6 if self.total else math.nan

    @property
    def max_ms(self) -> float:
        """The largest value."""
        return self.max_ns / 1e6 if self.total else math.nan

    def percentile_ms(self, percent: float) -> float:
        """The value that `percent` of all are no larger than, by the nearest rank."""
        return float(self.percentiles_ms((percent,))[0])

    def percentiles_ms(self, percents: tuple[float, ...]) -> Array:
        """(len(percents),) float64."""
        return _percentiles(self.counts.sum(axis=0), percents)

    def interval_ms(self, percent: float, *, seed: int = 0) -> Interval:
        """The 95 % interval of a percentile, by the bootstrap over the stretches of the run."""
        if not self.total:
            return Interval(math.nan, math.nan)
        used = np.flatnonzero(self.counts.any(axis=0))
        parts = self.counts[self.counts.any(axis=1)][:, used].astype(np.float64)
        draws = np.random.default_rng(seed).multinomial(
            len(parts), np.full(len(parts), 1 / len(parts)), RESAMPLES
        )
        cumulated = np.cumsum(draws @ parts, axis=1)
        ranks = np.ceil(cumulated[:, -1] * percent / 100 - 1e-9)
        chosen = (cumulated < ranks[:, None]).sum(axis=1)
        found = percentile(middle_ms(used[np.minimum(chosen, len(used) - 1)]))
        return found.around(self.percentile_ms(percent))

    def share_within(self, limit_ms: float) -> float:
        """The share of values up to `limit_ms`, to the width of a bucket."""
        if not self.total:
            return math.nan
        last = int(bucket_of(np.array([int(limit_ms * 1e6)]))[0])
        return float(self.counts[:, : last + 1].sum()) / self.total

    def values_ms(self, limit: int = 2000) -> Array:
        """At most about `limit` values that are distributed as these, the largest among them."""
        counts = self.counts.sum(axis=0)
        used = np.flatnonzero(counts)
        if not used.size:
            return np.zeros(0)
        middles, total = middle_ms(used), int(counts.sum())
        middles[-1] = self.max_ms
        if total <= limit:
            return np.repeat(middles, counts[used])
        ranks = np.unique(np.append(np.linspace(1, total, limit).astype(np.int64), total))
        return middles[np.searchsorted(np.cumsum(counts[used]), ranks)]


def _percentiles(counts: Array, percents: tuple[float, ...]) -> Array:
    total = int(counts.sum())
    if not total:
        return np.full(len(percents), math.nan)
    ranks = np.ceil(np.array(percents) / 100 * total - 1e-9).clip(1, total)
    return middle_ms(np.searchsorted(np.cumsum(counts), ranks))
