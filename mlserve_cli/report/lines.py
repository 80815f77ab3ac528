"""Lines: several series over one axis, such as latency against load, or loss against epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from mlserve_cli.report.axes import Axis
from mlserve_cli.report.colours import Look
from mlserve_cli.report.frame import Frame, Key, Reference, looks, tooltip
from mlserve_cli.report.marker import marker
from mlserve_cli.report.markup import Markup, element

# A mark for each point up to here; with more they would cover their own line.
_MARKED = 40
# Three points a pixel show all that a screen can; a longer series is thinned to about as many.
_THINNED = 2000


@dataclass(frozen=True, slots=True)
class Series:
    """Values y over x, all of one length. low, high: the edges of a band around y.

    step: y holds until the next x, as counts and distributions do. marks: a mark at each point
    (None: while there are few).
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    _: KW_ONLY
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    step: bool = False
    marks: bool | None = None

    def __post_init__(self) -> None:
        edges = [edge for edge in (self.low, self.high) if edge is not None]
        if any(len(values) != len(self.x) for values in (self.y, *edges)) or len(edges) == 1:
            raise ValueError(f"the series '{self.name}' has x, y, low and high of unequal lengths")


@dataclass(frozen=True, slots=True)
class _Place:
    """One point of a series."""

    x: float
    y: float
    low: float
    high: float


def lines(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    title: str,
    references: Sequence[Reference] = (),
) -> Markup:
    """The plot. A value without a finite place interrupts its line, and a note counts them."""
    appearance = looks(one.name for one in series)
    pieces = [_pieces(one, x, y) for one in series]
    places = [place for pieces_of_one in pieces for piece in pieces_of_one for place in piece]
    frame = Frame(
        title,
        x,
        y,
        xs=[place.x for place in places],
        ys=[value for place in places for value in (place.y, place.low, place.high)],
        keys=[Key(name, look, "line") for name, look in appearance.items()]
        if len(appearance) > 1
        else (),
        references=references,
    )
    marks: list[Markup] = []
    for one, found in zip(series, pieces, strict=True):
        if one.low is not None:
            marks += [
                _band(piece, appearance[one.name], frame) for piece in found if len(piece) > 1
            ]
    for one, found in zip(series, pieces, strict=True):
        marks += [_line(one, piece, appearance[one.name], frame) for piece in found]
    for one, found in zip(series, pieces, strict=True):
        marked = len(one.x) <= _MARKED if one.marks is None else one.marks
        for piece in found:
            if marked or len(piece) == 1:
                marks += [_mark(one, place, appearance[one.name], frame, x, y) for place in piece]
    return frame.render(
        marks,
        summary=_summary(series, pieces, x, y),
        left_out=sum(len(one.x) for one in series) - len(places),
    )


def _pieces(one: Series, x: Axis, y: Axis) -> list[list[_Place]]:
    """The stretches of a series between values that cannot be drawn."""
    edges = (one.y, one.y) if one.low is None or one.high is None else (one.low, one.high)
    pieces: list[list[_Place]] = [[]]
    for values in zip(one.x, one.y, *edges, strict=True):
        place = _Place(*(float(value) for value in values))
        if x.drawable(place.x) and y.drawable(place.y):
            pieces[-1].append(place)
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _thinned(piece: list[_Place]) -> list[_Place]:
    """What a long series looks like: of each stretch its ends, its lowest and its highest point."""
    if len(piece) <= _THINNED:
        return piece
    width = math.ceil(len(piece) / (_THINNED / 4))
    kept: list[_Place] = []
    for start in range(0, len(piece), width):
        stretch = range(start, min(start + width, len(piece)))
        lowest = min(stretch, key=lambda index: piece[index].y)
        highest = max(stretch, key=lambda index: piece[index].y)
        kept += [piece[n] for n in sorted({stretch[0], lowest, highest, stretch[-1]})]
    return kept


def _line(one: Series, piece: list[_Place], look: Look, frame: Frame) -> Markup:
    shown = _thinned(piece)
    path = f"M{frame.x(shown[0].x):.2f},{frame.y(shown[0].y):.2f}"
    for place in shown[1:]:
        at_x, at_y = f"{frame.x(place.x):.2f}", f"{frame.y(place.y):.2f}"
        path += f"H{at_x}V{at_y}" if one.step else f"L{at_x},{at_y}"
    return element(
        "path",
        tooltip(one.name),
        class_="series",
        d=path,
        stroke=look.css,
        stroke_dasharray=look.dash or None,
    )


def _band(piece: list[_Place], look: Look, frame: Frame) -> Markup:
    # An edge without a number is the line itself; one that is infinite is the frame.
    def edge(value: float, place: _Place) -> str:
        return f"{frame.x(place.x):.2f},{frame.y(place.y if math.isnan(value) else value):.2f}"

    shown = _thinned(piece)
    there = [edge(place.high, place) for place in shown]
    back = [edge(place.low, place) for place in reversed(shown)]
    return element("polygon", class_="band", points=" ".join(there + back), fill=look.css)


def _mark(one: Series, place: _Place, look: Look, frame: Frame, x: Axis, y: Axis) -> Markup:
    told = f"{y.title}: {y.quantity(place.y)}"
    if one.low is not None:
        told += f" ({y.quantity(place.low)} to {y.quantity(place.high)})"
    said = tooltip("\n".join(filter(None, (one.name, f"{x.title}: {x.quantity(place.x)}", told))))
    return element("g", said, marker(look, frame.x(place.x), frame.y(place.y), 3.5))


def _summary(
    series: Sequence[Series], pieces: Sequence[list[list[_Place]]], x: Axis, y: Axis
) -> str:
    said = [f"{y.title} against {x.title}."]
    for one, found in zip(series, pieces, strict=True):
        values = [place.y for piece in found for place in piece]
        if values:
            low, high = y.quantity(min(values)), y.quantity(max(values))
            said.append(f"{one.name or y.title} from {low} to {high}.")
    return " ".join(said)
