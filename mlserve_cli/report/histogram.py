"""How many values lie in each of equal intervals."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from mlserve_cli.report.axes import Axis, number
from mlserve_cli.report.colours import look
from mlserve_cli.report.frame import Frame, Reference, tooltip
from mlserve_cli.report.markup import Markup, element

_MOST = 60


def histogram(
    values: Iterable[float],
    x: Axis,
    *,
    title: str,
    counted: str = "samples",
    bins: int | None = None,
    references: Sequence[Reference] = (),
) -> Markup:
    """The plot. On a logarithmic axis the intervals are equal factors. counted: what one is.

    bins: None takes the square root of the count, at most 60.
    """
    given = [float(value) for value in values]
    drawn = sorted(value for value in given if x.drawable(value))
    edges = _edges(drawn, bins or min(_MOST, math.ceil(math.sqrt(len(drawn)))), log=x.log)
    counts = [0] * (len(edges) - 1)
    for value in drawn:
        # The last interval holds its upper edge too, and rounding moves no value out.
        counts[min(max(bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1
    y = Axis(counted, include=(0,))
    frame = Frame(title, x, y, xs=edges, ys=counts, references=references)
    marks = []
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            said = f"{number(low)} to {x.quantity(high)}: {count:,} {counted}"
            left, right = frame.x(low), frame.x(high)
            # At least a pixel high, so that one value among thousands is seen.
            top = min(frame.y(count), frame.area.bottom - 1)
            marks.append(
                element(
                    "rect",
                    tooltip(said),
                    x=left + 0.5,
                    y=top,
                    width=max(1.0, right - left - 1),
                    height=frame.area.bottom - top,
                    fill=look(0).css,
                )
            )
    summary = f"{len(drawn):,} {counted} by {x.title}"
    if drawn:
        summary += f", from {x.quantity(drawn[0])} to {x.quantity(drawn[-1])}"
        summary += f", median {x.quantity(drawn[len(drawn) // 2])}"
    return frame.render(marks, summary=f"{summary}.", left_out=len(given) - len(drawn))


def _edges(values: Sequence[float], bins: int, *, log: bool) -> list[float]:
    """bins + 1 increasing edges around sorted values; one interval where all are equal."""
    if not values:
        return []
    low, high = values[0], values[-1]
    if high - low <= 1e-9 * max(abs(low), abs(high)) or high - low < 1e-150:
        around = abs(low) / 20 if abs(low) > 1e-150 else 0.5
        return [low - around, high + around]
    if log:
        factor = math.log(high / low) / bins
        return [*(low * math.exp(n * factor) for n in range(bins)), high]
    return [*(low + n * (high - low) / bins for n in range(bins)), high]
