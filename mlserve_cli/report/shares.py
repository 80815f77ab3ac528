"""One bar for a whole, cut into the shares that make it up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlserve_cli.report.axes import number
from mlserve_cli.report.box import shortened, text_width
from mlserve_cli.report.colours import Colour, css
from mlserve_cli.report.frame import WIDTH_PX, tooltip, words
from mlserve_cli.report.markup import Markup, element

_BAR_PX = 28.0
_ROW_PX = 20.0


@dataclass(frozen=True, slots=True)
class Part:
    """amount: not negative, in the unit of its neighbours."""

    name: str
    amount: float
    colour: Colour


def shares(parts: Sequence[Part], *, title: str, unit: str = "") -> Markup:
    """The plot: the bar, and below it each part with its share and its amount."""
    amounts = [part.amount if math.isfinite(part.amount) else 0.0 for part in parts]
    whole = sum(amounts) or 1.0
    drawn, x = [words(shortened(title, WIDTH_PX - 40), 0.0, 18.0, class_="title")], 0.0
    for part, amount in zip(parts, amounts, strict=True):
        width = WIDTH_PX * amount / whole
        if width > 0:
            drawn.append(
                element(
                    "rect",
                    tooltip(_told(part, amount / whole, unit)),
                    class_="mark",
                    x=x,
                    y=30,
                    width=width,
                    height=_BAR_PX,
                    fill=css(part.colour),
                )
            )
        x += width
    x, y = 0.0, 30 + _BAR_PX + 22
    for part, amount in zip(parts, amounts, strict=True):
        told = shortened(_told(part, amount / whole, unit), WIDTH_PX - 40)
        width = 20 + text_width(told) + 20
        if x + width > WIDTH_PX and x > 0:
            x, y = 0.0, y + _ROW_PX
        drawn.append(
            element("rect", x=x, y=y - 10, width=12, height=12, rx=2, fill=css(part.colour))
        )
        drawn.append(words(told, x + 18, y))
        x += width
    said = "; ".join(
        _told(part, amount / whole, unit) for part, amount in zip(parts, amounts, strict=True)
    )
    return element(
        "svg",
        *drawn,
        viewBox=f"0 0 {WIDTH_PX:g} {y + 12:g}",
        role="img",
        aria_label=f"{title}. {said}.",
    )


def _told(part: Part, share: float, unit: str) -> str:
    amount = f"{number(part.amount)} {unit}".strip()
    return f"{part.name}: {share:.0%}, {amount}"
