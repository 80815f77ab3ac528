"""Horizontal bars from zero, one for each name, such as the memory of each variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from mlserve_cli.report.axes import Axis
from mlserve_cli.report.box import FONT_PX, shortened, text_width
from mlserve_cli.report.colours import Look
from mlserve_cli.report.frame import Frame, Key, looks, tooltip, words
from mlserve_cli.report.markup import Markup, element

_ROW_PX = 26.0
_BAR_PX = 16.0
_NAME_PX = 240.0
_CAP_PX = 3.0


@dataclass(frozen=True, slots=True)
class Bar:
    """interval: (low, high), drawn across the bar's end."""

    name: str
    value: float
    _: KW_ONLY
    group: str = ""
    interval: tuple[float, float] | None = None


def bars(items: Sequence[Bar], axis: Axis, *, title: str) -> Markup:
    """The plot, a row for each bar in the order given. The length tells, so the axis is linear.

    A value that is not finite keeps its row, which says so.
    """
    if axis.log:
        raise ValueError("the length of a bar means nothing on a logarithmic axis")
    axis = Axis(axis.title, axis.unit, better=axis.better, include=(0.0, *axis.include), at=axis.at)
    groups = looks(item.group for item in items)
    named = [name for name in groups if name]
    drawn = [item for item in items if axis.drawable(item.value)]
    reach = [end for item in drawn for end in (item.value, *(item.interval or ()))]
    room = max((text_width(axis.quantity(item.value)) for item in drawn), default=0.0) + 12
    names = max((text_width(shortened(item.name, _NAME_PX)) for item in items), default=0.0)
    frame = Frame(
        title,
        axis,
        None,
        xs=[*reach, *_with_room(reach, room)],
        keys=[Key(name, groups[name], "area") for name in named],
        height=max(2 * _ROW_PX, _ROW_PX * len(items) + 8),
        left=min(_NAME_PX, names) + 22,
    )
    marks = []
    for row, item in enumerate(items):
        middle = frame.area.top + 4 + _ROW_PX * (row + 0.5)
        name = shortened(item.name, _NAME_PX)
        marks.append(
            words(name, frame.area.left - 8, middle + FONT_PX / 3, anchor="end", class_="name")
        )
        marks.append(_bar(item, groups[item.group], middle, frame, axis))
    said = ", ".join(f"{item.name} {axis.quantity(item.value)}" for item in items[:20])
    return frame.render(marks, summary=f"{axis.title}: {said}.", left_out=len(items) - len(drawn))


def _with_room(reach: Sequence[float], room_px: float) -> list[float]:
    """Further ends for the axis, so that the numbers beside the longest bars have room too."""
    low, high = min(0.0, *reach, 0.0), max(0.0, *reach, 0.0)
    share = room_px / 450  # of the pixels that are left for bars beside long names
    ends = [high + (high - low) * share] if high > 0 else []
    return [*ends, low - (high - low) * share] if low < 0 else ends


def _bar(item: Bar, look: Look, middle: float, frame: Frame, axis: Axis) -> Markup:
    told = axis.quantity(item.value)
    if not axis.drawable(item.value):
        return words(told, frame.x(0.0) + 6, middle + FONT_PX / 3, class_="note")
    said = f"{item.name}: {told}"
    zero, end = frame.x(0.0), frame.x(item.value)
    parts = [
        element(
            "rect",
            x=min(zero, end),
            y=middle - _BAR_PX / 2,
            # A hair is left of the smallest, so that it is seen to be there.
            width=max(1.0, abs(end - zero)),
            height=_BAR_PX,
            rx=2,
            fill=look.css,
        )
    ]
    beside = [end]
    if item.interval is not None and not any(math.isnan(value) for value in item.interval):
        low, high = frame.x(item.interval[0]), frame.x(item.interval[1])
        beside += [low, high]
        path = f"M{low:.2f},{middle:.2f}H{high:.2f}" + "".join(
            f"M{at:.2f},{middle - _CAP_PX:.2f}v{2 * _CAP_PX:.2f}" for at in (low, high)
        )
        parts.append(element("path", class_="interval over", d=path))
        said += f" ({axis.quantity(item.interval[0])} to {axis.quantity(item.interval[1])})"
    baseline = middle + FONT_PX / 3
    if item.value < 0:
        parts.append(words(told, min(beside) - 6, baseline, anchor="end"))
    else:
        parts.append(words(told, max(beside) + 6, baseline))
    return element("g", tooltip(said), *parts)
