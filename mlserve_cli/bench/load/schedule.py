"""When requests are to be sent, decided before the first of them: what an open loop is."""

from __future__ import annotations

import numpy as np

from mlserve_cli.runtime.tensors import Array


def constant(rate: float, seconds: float) -> Array:
    """(n,) float64: times in seconds from the start, equally far apart."""
    return np.arange(max(1, round(rate * seconds))) / rate


def poisson(rate: float, seconds: float, *, seed: int = 0) -> Array:
    """(n,) float64: times in seconds from the start, as users who know nothing of each other come.

    The gaps are exponential, as those of LoadGen's Server scenario are.
    """
    random = np.random.default_rng(seed)
    expected = rate * seconds
    # Six standard deviations more than expected: the times never end before the run does.
    count = int(expected + 6 * np.sqrt(expected) + 10)
    times = np.cumsum(random.exponential(1 / rate, count))
    within = times[times < seconds]
    return within if within.size else times[:1]
