"""What stands around the marks of a plot: title, legend, axes with their grid, notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlserve_cli.report.axes import Axis
from mlserve_cli.report.box import FONT_PX, Box, shortened, text_width
from mlserve_cli.report.colours import Look, look
from mlserve_cli.report.marker import marker
from mlserve_cli.report.markup import Markup, element, joined, text

WIDTH_PX = 760.0
HEIGHT_PX = 320.0
_RIGHT_PX = 22.0
_LINE_PX = 18.0


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the legend."""

    name: str
    look: Look
    kind: Literal["marker", "line", "area"] = "marker"


@dataclass(frozen=True, slots=True)
class Reference:
    """A dashed line across the plot at one value, such as a limit or a baseline."""

    value: float
    name: str
    axis: Literal["x", "y"] = "y"


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, in the order in which they first come."""
    return {name: look(index) for index, name in enumerate(dict.fromkeys(names))}


def tooltip(value: str) -> Markup:
    """What a reader sees on pointing at the element that this is put into."""
    return element("title", text(value))


def words(
    value: str,
    x: float,
    y: float,
    *,
    anchor: Literal["start", "middle", "end"] = "start",
    class_: str | None = None,
    transform: str | None = None,
) -> Markup:
    """A line of text on the baseline y."""
    place = {"x": x, "y": y, "text_anchor": None if anchor == "start" else anchor}
    return element("text", text(value), class_=class_, transform=transform, **place)


class Frame:
    """The frame of one plot: made from the values, asked for places, then closed around marks.

    area: where the marks go. x, y: scales from values to pixels in it. Without a y axis (bars have
    names there) `left` is the room for what stands left of the area, and `y` is never asked.
    """

    def __init__(
        self,
        title: str,
        x: Axis,
        y: Axis | None,
        *,
        xs: Iterable[float],
        ys: Iterable[float] = (),
        keys: Sequence[Key] = (),
        references: Sequence[Reference] = (),
        height: float = HEIGHT_PX,
        left: float = 0.0,
    ) -> None:
        self._title, self._axes, self._keys = title, (x, y), keys
        self._references = [
            item
            for item in references
            if (axis := x if item.axis == "x" else y) is not None and axis.drawable(item.value)
        ]
        self._legend, legend_px = _legend(keys, 34.0)
        top = 34.0 + legend_px
        vertical = y or Axis("")
        self.y = vertical.scale([*ys, *self._values("y")], top + height, top)
        self._y_ticks = self.y.ticks() if y else []
        if y:
            widest = max((text_width(tick.label) for tick in self._y_ticks), default=0.0)
            left = 34.0 + widest
        self.area = Box(left, top, WIDTH_PX - _RIGHT_PX, top + height)
        self.x = x.scale([*xs, *self._values("x")], self.area.left, self.area.right)

    def _values(self, axis: str) -> list[float]:
        return [item.value for item in self._references if item.axis == axis]

    def reference_boxes(self, *, lines: bool = False) -> list[Box]:
        """Where the names of the reference lines stand, or with `lines` the lines themselves."""
        if not lines:
            return [box for _, _, box in self._placed_references()]
        area, boxes = self.area, []
        for item in self._references:
            if item.axis == "y":
                at = self.y(item.value)
                boxes.append(Box(area.left, at - 1, area.right, at + 1))
            else:
                at = self.x(item.value)
                boxes.append(Box(at - 1, area.top, at + 1, area.bottom))
        return boxes

    def render(self, marks: Iterable[Markup], *, summary: str, left_out: int = 0) -> Markup:
        """The whole `<svg>`. summary: what a person who does not see it should know.

        left_out: how many marks had no place on the axes; a note says so.
        """
        x_axis, y_axis = self._axes
        below = self.area.bottom + 40.0
        notes: list[Markup] = []
        if left_out:
            what = "value was" if left_out == 1 else "values were"
            why = "not finite"
            if x_axis.log or (y_axis is not None and y_axis.log):
                why += ", or not above zero on a logarithmic axis"
            note = f"{left_out:,} {what} left out: {why}."
            notes.append(words(note, self.area.left, below + _LINE_PX - 2, class_="note"))
            summary = f"{summary} {note}"
            below += _LINE_PX
        height = below + 8.0
        drawn = joined(marks)
        if not drawn:
            middle = (self.area.left + self.area.right) / 2, (self.area.top + self.area.bottom) / 2
            drawn = words("no data", *middle, anchor="middle", class_="note")
            summary = f"{summary} No data."
        return element(
            "svg",
            words(shortened(self._title, WIDTH_PX - 40), 0.0, 18.0, class_="title"),
            self._legend,
            self._grid(),
            self._lines(),
            drawn,
            *notes,
            viewBox=f"0 0 {WIDTH_PX:g} {height:g}",
            role="img",
            aria_label=f"{self._title}. {summary}".strip(),
        )

    def _grid(self) -> Markup:
        area, parts = self.area, []
        x_axis, y_axis = self._axes
        shown_to = float("-inf")
        for tick in self.x.ticks(7):
            at = self.x(tick.value)
            parts.append(element("line", class_="grid", x1=at, y1=area.top, x2=at, y2=area.bottom))
            half = text_width(tick.label) / 2
            if at - half > shown_to:  # long labels would run into each other
                parts.append(words(tick.label, at, area.bottom + 17, anchor="middle"))
                shown_to = at + half + 6
        for tick in self._y_ticks:
            at = self.y(tick.value)
            parts.append(element("line", class_="grid", x1=area.left, y1=at, x2=area.right, y2=at))
            parts.append(words(tick.label, area.left - 8, at + FONT_PX / 3, anchor="end"))
        middle = (area.left + area.right) / 2
        parts.append(
            words(x_axis.caption, middle, area.bottom + 36, anchor="middle", class_="axis")
        )
        parts.append(
            element(
                "line", class_="edge", x1=area.left, y1=area.bottom, x2=area.right, y2=area.bottom
            )
        )
        if y_axis is not None:
            half_way = (area.top + area.bottom) / 2
            turn = f"rotate(-90 14 {half_way:g})"
            caption = shortened(y_axis.caption, area.height + 40)
            parts.append(
                words(caption, 14.0, half_way, anchor="middle", class_="axis", transform=turn)
            )
        return joined(parts)

    def _lines(self) -> Markup:
        parts, area = [], self.area
        for item, name, box in self._placed_references():
            if item.axis == "y":
                at = self.y(item.value)
                ends = {"x1": area.left, "y1": at, "x2": area.right, "y2": at}
            else:
                at = self.x(item.value)
                ends = {"x1": at, "y1": area.top, "x2": at, "y2": area.bottom}
            parts.append(element("line", tooltip(item.name), class_="reference", **ends))
            # Against the end that the estimate of its width was measured from.
            if item.axis == "y" or box.left < at:
                place = words(name, box.right, box.bottom - 4, anchor="end", class_="note")
            else:
                place = words(name, box.left, box.bottom - 4, class_="note")
            parts.append(place)
        return joined(parts)

    def _placed_references(self) -> list[tuple[Reference, str, Box]]:
        placed, area = [], self.area
        for item in self._references:
            name = shortened(item.name, 220)
            width = text_width(name)
            if item.axis == "y":
                at = self.y(item.value)
                left = area.right - width - 2
                # Above the line, but for one at the very top.
                top = at - 17 if at - 17 >= area.top else at + 1
            else:
                at = self.x(item.value)
                left = at + 5 if at + 5 + width <= area.right else at - 5 - width
                top = area.top
            placed.append((item, name, Box(left, top, left + width, top + 16)))
        return placed


def _legend(keys: Sequence[Key], top: float) -> tuple[Markup, float]:
    """The legend from `top` on, and the pixels that it takes."""
    parts, x, y = [], 0.0, top + 2
    for key in keys:
        name = shortened(key.name, 240)
        width = 26 + text_width(name) + 16
        if x + width > WIDTH_PX and x > 0:
            x, y = 0.0, y + _LINE_PX
        parts.append(_symbol(key, x, y - FONT_PX / 3))
        parts.append(words(name, x + 26, y))
        x += width
    return joined(parts), (y - top + 12 if keys else 0.0)


def _symbol(key: Key, x: float, y: float) -> Markup:
    if key.kind == "area":
        return element("rect", x=x + 4, y=y - 6, width=14, height=12, rx=2, fill=key.look.css)
    if key.kind == "marker":
        return marker(key.look, x + 11, y)
    return element(
        "line",
        class_="series",
        x1=x,
        y1=y,
        x2=x + 22,
        y2=y,
        stroke=key.look.css,
        stroke_dasharray=key.look.dash or None,
    )
