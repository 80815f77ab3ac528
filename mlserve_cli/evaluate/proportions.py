"""Shares of right answers: intervals at 95 % for one and for two paired ones, and their test.

Neither collapses to nothing when all answers are right or no answer changed, which the textbook
(Wald) interval does.
"""

from __future__ import annotations

import math

from mlserve_cli.package.interval import Interval

Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution, for intervals at 95 %."""


def wilson(right: int, count: int) -> Interval:
    """The score interval of a share (Wilson 1927, JASA 22:209-212; without continuity correction).

    right: how many of `count` > 0 answers were right. The interval lies in 0 … 1.
    """
    share = right / count
    spread = Z * Z / count
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return Interval(max(0.0, centre - half), min(1.0, centre + half)).around(share)


def paired_difference(lost: int, won: int, count: int) -> Interval:
    """The interval of (lost - won) / count, for answers to the same rows by two models.

    Agresti and Min 2005, Statistics in Medicine 24:729-740: the Wald interval for matched pairs
    after adding 0.5 to each of the four cells, so that no change at all gives no empty interval.

    lost: rows that were right before and are wrong after; won: the other way round.
    """
    lost_adjusted, won_adjusted, total = lost + 0.5, won + 0.5, count + 2.0
    centre = (lost_adjusted - won_adjusted) / total
    variance = (
        lost_adjusted + won_adjusted - (lost_adjusted - won_adjusted) ** 2 / total
    ) / total**2
    half = Z * math.sqrt(variance)
    point = (lost - won) / count
    return Interval(max(-1.0, centre - half), min(1.0, centre + half)).around(point)


def mcnemar(lost: int, won: int) -> float:
    """How often chance alone would part `lost` and `won` this unevenly, or more: the p-value.

    The exact two-sided form (McNemar 1947, Psychometrika 12:153-157): of the answers that changed,
    each went either way with the same chance. 1.0 where none changed.
    """
    changed = lost + won
    if not changed:
        return 1.0
    tail = sum(math.comb(changed, count) for count in range(min(lost, won) + 1))
    # Whole numbers to the end: 2^changed is beyond what a float holds from 1,024 changes on.
    return min(1.0, tail / (1 << (changed - 1)))
