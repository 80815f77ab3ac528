"""The colours of series, in light and dark, and the shapes that tell them apart without colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Colour = Literal["blue", "orange", "green", "purple", "red", "amber", "cyan", "grey"]
Shape = Literal["circle", "square", "diamond", "triangle", "cross"]

# Each keeps a contrast of 3 : 1 or more against the paper (WCAG 2.2, 1.4.11); a test holds that.
PAPER = {"light": "#ffffff", "dark": "#15181d"}
COLOURS: dict[Colour, tuple[str, str]] = {  # light, dark
    "blue": ("#1f6fb4", "#6cb0f0"),
    "orange": ("#c8590a", "#f5a05a"),
    "green": ("#178a5e", "#55c99a"),
    "purple": ("#8250c4", "#b794f0"),
    "red": ("#c22f4c", "#f27d92"),
    "amber": ("#9a7400", "#e0c050"),
    "cyan": ("#0c8599", "#4fc3d9"),
    "grey": ("#6b7280", "#9aa4b2"),
}
SHAPES: tuple[Shape, ...] = ("circle", "square", "diamond", "triangle", "cross")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2")
_SERIES: tuple[Colour, ...] = tuple(name for name in COLOURS if name != "grey")


@dataclass(frozen=True, slots=True)
class Look:
    """How one series is drawn. dash: SVG's stroke-dasharray, empty for a solid line."""

    colour: Colour
    shape: Shape
    dash: str

    @property
    def css(self) -> str:
        """The colour for a `fill`, a `stroke` or a `background`."""
        return css(self.colour)


def css(colour: Colour) -> str:
    """What the page's style turns into the light or the dark colour."""
    return f"var(--{colour})"


def look(index: int) -> Look:
    """The look of the series with this number, from 0; 35 go by before one comes again."""
    return Look(
        _SERIES[index % len(_SERIES)], SHAPES[index % len(SHAPES)], _DASHES[index % len(_DASHES)]
    )
