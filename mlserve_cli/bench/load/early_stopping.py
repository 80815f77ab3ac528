"""Does a percentile objective hold, or was this run lucky? The bound that MLPerf's LoadGen uses.

A run in which t of n queries were over the objective is enough when so few would hardly ever be
seen of a system that misses the percentile p: P(Binomial(n, 1 − p) ≤ t) ≤ 1 − c, with c = 0.99.
That is LoadGen's rule of early stopping (mlcommons/inference, loadgen/early_stopping.cc, with its
tolerance of 0), there written as the regularized incomplete beta function I_p(n − t, t + 1).

It takes 459 queries without a single one over to say anything of a 99th percentile.
"""

from __future__ import annotations

import math

import numpy as np

CONFIDENCE = 0.99


def chance(total: int, over: int, percentile: float) -> float:
    """P(Binomial(total, 1 − percentile / 100) ≤ over): how likely luck like that is."""
    if total <= 0 or over >= total:
        return 1.0
    q = 1 - percentile / 100
    k = np.arange(1, over + 1)
    # Each term from the one before, in logarithms: total may be millions.
    steps = np.log((total - k + 1) / k) + math.log(q) - math.log1p(-q)
    logs = total * math.log1p(-q) + np.concatenate([[0.0], np.cumsum(steps)])
    top = float(logs.max())
    return min(1.0, math.exp(top) * float(np.exp(logs - top).sum()))


def holds(total: int, over: int, percentile: float, *, confidence: float = CONFIDENCE) -> bool:
    """Whether it is proven that `percentile` of all queries are within the objective."""
    return chance(total, over, percentile) <= 1 - confidence


def most_over(total: int, percentile: float, *, confidence: float = CONFIDENCE) -> int:
    """The most of `total` queries that may be over; −1 where even none would prove nothing."""
    if not holds(total, 0, percentile, confidence=confidence):
        return -1
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        if holds(total, middle, percentile, confidence=confidence):
            low = middle
        else:
            high = middle
    return low


def least_total(percentile: float, over: int = 0, *, confidence: float = CONFIDENCE) -> int:
    """The fewest queries that can prove it with `over` of them over."""
    low, high = over, max(2, 2 * over)
    while not holds(high, over, percentile, confidence=confidence):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle, over, percentile, confidence=confidence):
            high = middle
        else:
            low = middle
    return high
