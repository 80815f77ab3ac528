"""How values are distributed: of each value, the share of all that is no larger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mlserve_cli.report.axes import Axis
from mlserve_cli.report.frame import Reference
from mlserve_cli.report.lines import Series, lines
from mlserve_cli.report.markup import Markup

# Ranks that are drawn of a longer series; the largest values are drawn one by one, since a tail
# of a few among thousands is what a reader of latencies looks for.
_RANKS = 400
_TAIL = 60
SHARE = Axis("share no larger", "%", include=(0, 100))


def distribution(
    samples: dict[str, Iterable[float]],
    x: Axis,
    *,
    title: str,
    references: Sequence[Reference] = (),
) -> Markup:
    """The empirical distribution function of each series of samples, a step at each value."""
    return lines(
        [_series(name, values, x) for name, values in samples.items()],
        x,
        SHARE,
        title=title,
        references=references,
    )


def _series(name: str, values: Iterable[float], axis: Axis) -> Series:
    given = [float(value) for value in values]
    drawable = sorted(value for value in given if axis.drawable(value))
    without = [math.nan] * (len(given) - len(drawable))  # counted in the note of what is left out
    ranks = _ranks(len(drawable))
    x = [drawable[rank] for rank in ranks]
    # What is left out still counts as a sample: a share of those that are drawn would be larger
    # than it was.
    y = [100 * (rank + 1) / len(given) for rank in ranks]
    # From zero on: the first step stands at the smallest value.
    start = drawable[:1]
    return Series(
        name, [*start, *x, *without], [*(0.0 for _ in start), *y, *without], step=True, marks=False
    )


def _ranks(count: int) -> list[int]:
    spread = (count - 1 - math.floor(n * (count - 1) / _RANKS) for n in range(_RANKS + 1))
    tail = range(max(0, count - _TAIL), count)
    return sorted({rank for rank in (*spread, *tail) if 0 <= rank < count})
