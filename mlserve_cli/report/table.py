"""A table in a report: numbers to the right, bars in cells, rows that stand out."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY, dataclass

from mlserve_cli.report.axes import number
from mlserve_cli.report.colours import Colour, css
from mlserve_cli.report.markup import Markup, element, text


@dataclass(frozen=True, slots=True)
class Cell:
    """What a plain text or number does not say. bar: its length, from 0 to 1; it may be alone.

    number: the text is a number, and stands to the right.
    """

    text: str = ""
    _: KW_ONLY
    number: bool = False
    bar: float | None = None
    colour: Colour = "blue"


# A word up to here has room in a column.
_WORD = 24
_LONG_WORD = re.compile(rf"\S{{{_WORD + 1}}}")

Value = Cell | str | float | None


def table(
    head: Sequence[str], rows: Sequence[Sequence[Value]], *, highlight: Collection[int] = ()
) -> Markup:
    """The table. Numbers are written to four significant digits, None as a dash.

    A column whose cells are all numbers has its head to the right too. highlight: rows that stand
    out, from 0. Raises `ValueError` for a row of another length than the head.
    """
    for index, row in enumerate(rows):
        if len(row) != len(head):
            raise ValueError(f"row {index} has {len(row)} cells, the head has {len(head)}")
    decimals = [_decimals([row[column] for row in rows]) for column in range(len(head))]
    cells = [
        [_cell(value, most) for value, most in zip(row, decimals, strict=True)] for row in rows
    ]
    right = [
        bool(cells) and all(row[column].number for row in cells) for column in range(len(head))
    ]
    heads = (
        element("th", text(title), class_="number" if to_right else None, scope="col")
        for title, to_right in zip(head, right, strict=True)
    )
    body = (
        element("tr", *(_written(cell) for cell in row), class_="chosen" if n in chosen else None)
        for chosen in (frozenset(highlight),)
        for n, row in enumerate(cells)
    )
    return element(
        "div",
        element(
            "table",
            element("thead", element("tr", *heads)),
            element("tbody", *body),
        ),
        class_="wide",
    )


def _decimals(column: Sequence[Value]) -> int | None:
    """The decimals that all numbers of a column have, so that their points stand in line.

    None where they differ by more than a thousandfold: then each is written for itself.
    """
    values = [abs(value) for value in column if isinstance(value, float) and math.isfinite(value)]
    sizes = [value for value in values if value]
    if not sizes or max(sizes) > 1000 * min(sizes) or max(sizes) >= 1e7 or max(sizes) < 1e-4:
        return None
    return max(len(number(value).partition(".")[2]) for value in values)


def _cell(value: Value, decimals: int | None) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, str):
        return Cell(value)
    if value is None:
        return Cell("–", number=True)
    if isinstance(value, int):
        return Cell(f"{value:,}".replace("-", "−"), number=True)
    if decimals is None or not math.isfinite(value):
        return Cell(number(value), number=True)
    return Cell(f"{value:,.{decimals}f}".replace("-", "−"), number=True)


def _breakable(value: str) -> Markup:
    """The text, with places where a long word may go on in the next line.

    Names of nodes and tensors are paths without a blank; whole they would push a table off paper.
    """
    if not _LONG_WORD.search(value):
        return text(value)
    pieces = re.split(r"(?<=[/._-])", value)
    cut = (piece[n : n + _WORD] for piece in pieces for n in range(0, len(piece), _WORD))
    return Markup(element("wbr").join(text(piece) for piece in cut))


def _written(cell: Cell) -> Markup:
    parts = [_breakable(cell.text)] if cell.text else []
    if cell.bar is not None:
        # NaN compares as false, and so has no bar.
        share = min(1.0, cell.bar) if cell.bar > 0 else 0.0
        parts.append(
            element("div", class_="bar", style=f"width:{share:.1%};background:{css(cell.colour)}")
        )
    kind = "number" if cell.number else None
    return element("td", *parts, class_="bars" if cell.bar is not None else kind)
