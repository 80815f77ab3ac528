"""Intervals at 95 % for anything that was measured: the seeded bootstrap over what was observed.

Both measurements, of quality and of speed, print an interval; this is the part that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlserve_cli.runtime.tensors import Array

LEVEL = 0.95

RESAMPLES = 2000
"""Percentiles at 2.5 % and 97.5 % then rest on 50 resamples each; more changes the third digit."""


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, both in it."""

    low: float
    high: float

    def around(self, point: float) -> Interval:
        """The same interval, widened where rounding or a skewed resample left the point outside."""
        return Interval(min(self.low, point), max(self.high, point))

    def scaled(self, factor: float) -> Interval:
        """Both ends times `factor`; a negative one exchanges them."""
        ends = (self.low * factor, self.high * factor)
        return Interval(min(ends), max(ends))


def draws(
    count: int, *, seed: int = 0, resamples: int = RESAMPLES
) -> Iterator[npt.NDArray[np.intp]]:
    """Yield `resamples` times `count` row numbers, drawn with replacement.

    The same count and seed give the same draws, so that two models can be compared row by row.
    """
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield random.integers(0, count, size=count)


def percentile(values: Array) -> Interval:
    """The percentile interval of resampled values (Efron 1979; Efron and Tibshirani 1993, ch. 13).

    values: (resamples,) float64; NaN, a resample that has no value, is left out.
    """
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))


def bootstrap(
    values: Array,
    statistic: Callable[[Array], Any],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """The percentile bootstrap interval of `statistic(values)`; it contains that value.

    values: (n, …), resampled along the first axis.
    """
    resampled = np.array(
        [
            statistic(values[chosen])
            for chosen in draws(len(values), seed=seed, resamples=resamples)
        ],
        dtype=np.float64,
    )
    return percentile(resampled).around(float(statistic(values)))
