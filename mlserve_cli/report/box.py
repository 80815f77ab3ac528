"""Rectangles in a plot, and how much room a text takes in one."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

FONT_PX = 12.0
# Of the font's size; what sans-serif fonts need on average, and a little more.
_NARROW, _WIDE = 0.57, 1.0


@dataclass(frozen=True, slots=True)
class Box:
    """In pixels, y growing downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """From left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.bottom - self.top

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def holds(self, other: Box) -> bool:
        """Whether the other lies wholly inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )


def text_width(value: str, font_px: float = FONT_PX) -> float:
    """An estimate: which font a reader has is not known here."""
    return font_px * sum(
        _WIDE if unicodedata.east_asian_width(sign) in "WF" else _NARROW for sign in value
    )


def shortened(value: str, width: float) -> str:
    """The text, or as much of its beginning and its end as the width holds."""
    # A line break or a tab would only be a gap in SVG.
    value = " ".join(value.split())
    if text_width(value) <= width:
        return value
    half = len(value) // 2
    while half > 1 and text_width(value[:half] + "…" + value[-half:]) > width:
        half -= 1
    return value[:half] + "…" + value[-half:]
