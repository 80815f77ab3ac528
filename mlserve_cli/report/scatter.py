"""Points with intervals in both directions, such as accuracy against latency, and their front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlserve_cli.report.axes import Axis, Scale
from mlserve_cli.report.box import Box
from mlserve_cli.report.colours import Look
from mlserve_cli.report.frame import Frame, Key, Reference, looks, tooltip, words
from mlserve_cli.report.labels import Label, Wanted, placed
from mlserve_cli.report.marker import RADIUS_PX, marker
from mlserve_cli.report.markup import Markup, element, joined

_CAP_PX = 3.0
# Reaches into free space around a mark, so that a name does not touch it.
_CLEAR_PX = RADIUS_PX + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """x_interval, y_interval: (low, high); an end without a place reaches to the frame.

    front: the best there is, so on the step line. chosen: ringed, and named first.
    """

    x: float
    y: float
    name: str = ""
    group: str = ""
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    front: bool = False
    chosen: bool = False


def scatter(
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    *,
    title: str,
    references: Sequence[Reference] = (),
) -> Markup:
    """The plot. Points without a finite place are left out, and a note counts them.

    The step line through the front turns on the side that is worse: `better` of the axes says
    which (without it, lower x and higher y are better). What lies beyond it was not reached.
    """
    drawn = [point for point in points if x.drawable(point.x) and y.drawable(point.y)]
    groups = looks(point.group for point in points)
    named = [name for name in groups if name]
    frame = Frame(
        title,
        x,
        y,
        xs=_reach(((point.x, point.x_interval) for point in drawn), x),
        ys=_reach(((point.y, point.y_interval) for point in drawn), y),
        keys=[Key(name, groups[name]) for name in named],
        references=references,
    )
    front = [point for point in drawn if point.front]
    steps = _steps(front, frame, x, y)
    # Chosen and best points are drawn last, so on top, and named first.
    drawn.sort(key=lambda point: (point.chosen, point.front))
    return frame.render(
        [
            _front(steps),
            *(_drawn(point, groups[point.group], frame, x, y) for point in drawn),
            *_names(drawn[::-1], frame, steps),
        ],
        summary=_summary(drawn, front, x, y),
        left_out=len(points) - len(drawn),
    )


def _reach(
    values: Iterable[tuple[float, tuple[float, float] | None]], axis: Axis
) -> Iterable[float]:
    for value, interval in values:
        yield value
        yield from interval or ()


def _drawn(point: Point, look: Look, frame: Frame, x: Axis, y: Axis) -> Markup:
    at_x, at_y = frame.x(point.x), frame.y(point.y)
    told = [point.name, point.group] if point.name != point.group else [point.name]
    told += [
        f"{x.title}: {_told(point.x, point.x_interval, x)}",
        f"{y.title}: {_told(point.y, point.y_interval, y)}",
    ]
    parts = [tooltip("\n".join(line for line in told if line))]
    for low, high in _ends(point.x_interval, frame.x):
        path = f"M{low:.2f},{at_y:.2f}H{high:.2f}" + "".join(
            f"M{end:.2f},{at_y - _CAP_PX:.2f}v{2 * _CAP_PX:.2f}" for end in (low, high)
        )
        parts.append(element("path", class_="interval", d=path, stroke=look.css))
    for low, high in _ends(point.y_interval, frame.y):
        path = f"M{at_x:.2f},{low:.2f}V{high:.2f}" + "".join(
            f"M{at_x - _CAP_PX:.2f},{end:.2f}h{2 * _CAP_PX:.2f}" for end in (low, high)
        )
        parts.append(element("path", class_="interval", d=path, stroke=look.css))
    if point.chosen:
        parts.append(element("circle", class_="ring", cx=at_x, cy=at_y, r=RADIUS_PX + 4.5))
    parts.append(marker(look, at_x, at_y))
    return element("g", *parts)


def _told(value: float, interval: tuple[float, float] | None, axis: Axis) -> str:
    if interval is None:
        return axis.quantity(value)
    low, high = (axis.quantity(end) for end in interval)
    return f"{axis.quantity(value)} ({low} to {high})"


def _ends(interval: tuple[float, float] | None, scale: Scale) -> list[tuple[float, float]]:
    """The pixels of an interval; none for an interval that holds no number."""
    if interval is None or any(math.isnan(end) for end in interval):
        return []
    return [(scale(interval[0]), scale(interval[1]))]


def _steps(front: Sequence[Point], frame: Frame, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """The corners of the front in pixels, from frame to frame; none without a front.

    A point that was put on the front though another is better in both, since the difference may
    be noise, lies behind the line.
    """
    towards_x = -1 if x.better == "high" else 1
    towards_y = 1 if y.better == "low" else -1
    places: list[tuple[float, float]] = []
    for point in sorted(front, key=lambda point: (towards_x * point.x, towards_y * point.y)):
        if not places or towards_y * point.y < towards_y * places[-1][1]:
            if places:
                places.append((point.x, places[-1][1]))
            places.append((point.x, point.y))
    if not places:
        return []
    # From the outermost points on to the frame, away from what is better.
    first = places[0][0], frame.y.high if y.better == "low" else frame.y.low
    last = frame.x.low if x.better == "high" else frame.x.high, places[-1][1]
    return [(frame.x(at_x), frame.y(at_y)) for at_x, at_y in (first, *places, last)]


def _front(steps: Sequence[tuple[float, float]]) -> Markup:
    if not steps:
        return joined([])
    return element(
        "g",
        tooltip("The front: nothing measured is better in both."),
        element("path", class_="front tail", d=_path(steps[:2])),
        element("path", class_="front tail", d=_path(steps[-2:])),
        element("path", class_="front", d=_path(steps[1:-1])),
    )


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f},{y:.2f}" for x, y in places)


def _names(
    points: Sequence[Point], frame: Frame, steps: Sequence[tuple[float, float]]
) -> list[Markup]:
    wanted = [
        Wanted(point.name, frame.x(point.x), frame.y(point.y), point.front or point.chosen)
        for point in points
    ]
    marks = [_around(want.x, want.y, want.x, want.y, _CLEAR_PX) for want in wanted]
    strokes = [
        _around(*here, *there, 2.0) for here, there in pairwise(steps)
    ] + frame.reference_boxes(lines=True)
    for point, want in zip(points, wanted, strict=True):
        strokes += [
            _around(low, want.y, high, want.y, 2.0)
            for low, high in _ends(point.x_interval, frame.x)
        ]
        strokes += [
            _around(want.x, low, want.x, high, 2.0)
            for low, high in _ends(point.y_interval, frame.y)
        ]
    names = frame.reference_boxes()
    found = placed(wanted, frame.area, avoid=[*marks, *names], rather_not=strokes)
    drawn: list[Markup] = []
    for label, want in zip(found, wanted, strict=True):
        if label is not None:
            if label.far:
                drawn.append(_leader(label, want.x, want.y))
            drawn.append(words(label.name, label.box.left, label.box.bottom - 3, class_="name"))
    return drawn


def _around(x1: float, y1: float, x2: float, y2: float, room: float) -> Box:
    """The box around a line and the room beside it."""
    return Box(min(x1, x2) - room, min(y1, y2) - room, max(x1, x2) + room, max(y1, y2) + room)


def _leader(label: Label, x: float, y: float) -> Markup:
    box = label.box
    end_x = min(max(x, box.left), box.right)
    end_y = min(max(y, box.top), box.bottom)
    return element("line", class_="leader", x1=x, y1=y, x2=end_x, y2=end_y)


def _summary(drawn: Sequence[Point], front: Sequence[Point], x: Axis, y: Axis) -> str:
    if not drawn:
        return f"{y.title} against {x.title}."
    said = f"{y.title} against {x.title}, {len(drawn)} points: "
    ends = []
    for axis, values in ((x, [point.x for point in drawn]), (y, [point.y for point in drawn])):
        low, high = axis.quantity(min(values)), axis.quantity(max(values))
        ends.append(f"{axis.title} from {low} to {high}")
    said += ", ".join(ends) + "."
    names = [point.name for point in front if point.name]
    return f"{said} On the front: {', '.join(names)}." if names else said
