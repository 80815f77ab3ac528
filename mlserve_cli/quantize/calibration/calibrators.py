"""Which part of a tensor's range its 8 bits shall cover: the methods, by name.

minmax       all of it: nothing is clipped, and one outlier makes every step coarse
percentile   all but a share of the values, half of it at each end
entropy      where the clipped and rounded distribution says most about the true one
             (Kullback-Leibler; Migacz, "8-bit inference with TensorRT", 2017)
mse          where the mean squared error of clipping and rounding is smallest
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mlserve_cli.quantize.calibration.grid import LEVELS, Grid
from mlserve_cli.quantize.calibration.histogram import BINS, Histogram
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.runtime.tensors import Array

SHRINK: tuple[float, ...] = tuple(np.linspace(1.0, 0.05, 77).tolist())
"""What is tried of the distance between zero and an end: all of it first, so that a tie keeps it;
in steps of 1.25 %, three of the 256 steps, below which neither measure moves."""


MOST_CLIPPED = 1e-3
"""Of the values, by entropy. A range of fewer bins than there are levels loses nothing by rounding,
so where a few values recur (a picture's background behind a convolution) the divergence alone
would keep these and cut the rest off: a network for digits fell from 97.6 % to 21 %."""


def minmax(histogram: Histogram, percentile: float) -> Range:
    """The whole range."""
    return histogram.range


def percentile(histogram: Histogram, percentile: float) -> Range:
    """What is left when (100 - percentile) percent of the values are cut off, half at each end."""
    if percentile >= 100 or histogram.width <= 0:
        return histogram.range
    tail = (1 - percentile / 100) / 2
    total = np.concatenate([[0], np.cumsum(histogram.counts)]) / histogram.mass
    edges = histogram.range.low + np.arange(BINS + 1) * histogram.width
    low, high = np.interp([tail, 1 - tail], total, edges)
    return Range(float(low), float(high))


def mse(histogram: Histogram, percentile: float) -> Range:
    """The range of the smallest mean squared error; never worse than the whole one."""
    values = histogram.means()
    used = histogram.counts > 0
    values, counts = values[used], histogram.counts[used].astype(np.float64)

    def error(candidate: Range) -> float:
        gap = Grid.over(candidate).nearest(values) - values
        return float(counts @ (gap * gap))

    return _search(histogram, error)


def entropy(histogram: Histogram, percentile: float) -> Range:
    """The range of the smallest divergence between the true and the rounded distribution."""
    middle = histogram.range.low + (np.arange(BINS) + 0.5) * histogram.width
    counts = histogram.counts.astype(np.float64)
    # Behind a Relu half of the values are exactly zero, which every range keeps: they would drown
    # the shape of the rest.
    if histogram.range.low <= 0 <= histogram.range.high and histogram.width > 0:
        zero = min(int(-histogram.range.low / histogram.width), BINS - 1)
        counts[zero] = min(counts[zero], np.delete(counts, zero).max(initial=0.0))
    if not counts.sum():
        return histogram.range

    def divergence(candidate: Range) -> float:
        inside = (middle >= candidate.low) & (middle <= candidate.high)
        if histogram.counts[~inside].sum() > MOST_CLIPPED * histogram.mass:
            return float("inf")
        return _divergence(counts, middle, inside, Grid.over(candidate))

    return _search(histogram, divergence)


def _divergence(counts: Array, middle: Array, inside: Array, grid: Grid) -> float:
    """KL(P‖Q): P clips what lies outside into the edge bins; Q is what the levels can tell of the
    inside, each level's mass spread evenly over the bins of it that are not empty."""
    if not inside.any():
        return float("inf")
    first, last = np.flatnonzero(inside)[[0, -1]]
    true = counts[first : last + 1].copy()
    known = true > 0
    true[0] += counts[:first].sum()
    true[-1] += counts[last + 1 :].sum()
    levels = grid.levels(middle[first : last + 1]).astype(np.int64)
    kept = counts[first : last + 1]
    mass = np.bincount(levels, weights=kept, minlength=LEVELS)
    bins = np.bincount(levels, weights=known, minlength=LEVELS)
    rounded = np.where(known, mass[levels] / np.maximum(bins[levels], 1), 0.0)
    if not rounded.sum():
        return float("inf")
    true, rounded = true / true.sum(), rounded / rounded.sum()
    used = true > 0
    # A bin that only clipping filled has no counterpart: smoothed, so that it costs, but not all.
    return float(np.sum(true[used] * np.log(true[used] / np.maximum(rounded[used], 1e-9))))


def _search(histogram: Histogram, cost: Callable[[Range], float]) -> Range:
    """Move one end, then the other, to where the cost is smallest; twice, as they interact."""
    whole = histogram.range
    best, least = whole, cost(whole)
    for _ in range(2):
        for end in ("high", "low"):
            full = getattr(whole, end)
            outside = full <= 0 if end == "high" else full >= 0
            if outside:
                continue  # that end is zero, or beyond it: zero is covered anyhow
            for share in SHRINK:
                ends = {"low": best.low, "high": best.high, end: full * share}
                candidate = Range(ends["low"], ends["high"])
                found = cost(candidate)
                if found < least:
                    best, least = candidate, found
    return best


CALIBRATORS: Mapping[str, Callable[[Histogram, float], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
