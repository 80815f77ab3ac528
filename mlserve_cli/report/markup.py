"""HTML and SVG elements from plain values, escaped where they become markup and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import NewType

# Only this module makes markup of strings; a plot or a page takes nothing else for markup.
Markup = NewType("Markup", str)

# XML 1.0, section 2.2: what no document may hold, not even escaped. HTML drops most of it too.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(value: str) -> Markup:
    """The text itself, whatever it holds; characters that no document may hold become U+FFFD."""
    return Markup(escape(_FORBIDDEN.sub("\ufffd", value)))


def joined(parts: Iterable[Markup]) -> Markup:
    """One after another."""
    return Markup("".join(parts))


def element(tag: str, /, *children: Markup, **attributes: str | float | None) -> Markup:
    """An element that is valid as HTML and as XML; attributes that are None are left out.

    `class_` stands for class, and an underscore for a hyphen: `stroke_width`, `aria_label`.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = "".join(children)
    # HTML closes these on its own, and SVG's elements may close themselves.
    if not inner and tag in _EMPTY:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{inner}</{tag}>")


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return text(value)
    # Hundredths of a pixel are enough, and keep a page of thousands of points small.
    written = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written


_EMPTY = frozenset({"circle", "line", "meta", "path", "polygon", "polyline", "rect", "wbr"})
