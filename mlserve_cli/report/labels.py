"""Names beside points, where they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlserve_cli.report.box import FONT_PX, Box, shortened, text_width

# More names than this make a cloud that no one reads; every mark has its name as a tooltip.
MOST = 40
_LONGEST_PX = 170.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A name for the point (x, y). needed: better over some line than left out."""

    name: str
    x: float
    y: float
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """A name in its place. far: so far from its point that a line should lead there."""

    name: str
    box: Box
    far: bool


def placed(
    wanted: Sequence[Wanted], area: Box, *, avoid: Sequence[Box], rather_not: Sequence[Box] = ()
) -> list[Label | None]:
    """A place for each name, the first served first; None where there is no free one.

    avoid: what no name may cover. rather_not: what only names that are needed may cover, where
    nothing else is free.
    """
    taken = list(avoid)
    found: list[Label | None] = []
    for index, want in enumerate(wanted):
        label = _best(want, area, taken, rather_not) if want.name and index < MOST else None
        if label is not None:
            taken.append(label.box)
        found.append(label)
    return found


def _best(want: Wanted, area: Box, taken: Sequence[Box], rather_not: Sequence[Box]) -> Label | None:
    name = shortened(want.name, _LONGEST_PX)
    best: tuple[float, Label] | None = None
    for order, (box, far) in enumerate(_places(text_width(name), want.x, want.y)):
        if not area.holds(box) or any(box.overlap(other) for other in taken):
            continue
        covered = sum(box.overlap(other) for other in rather_not)
        if covered and not want.needed:
            continue
        # A place further down the list costs as much as covering so many square pixels.
        cost = covered + 12 * order
        if best is None or cost < best[0]:
            best = cost, Label(name, box, far)
    return best[1] if best else None


def _places(width: float, x: float, y: float) -> list[tuple[Box, bool]]:
    """Right, left, above and below, then the corners; near first, then further off."""
    height = FONT_PX + 2
    places = []
    for gap, far in ((8.0, False), (22.0, True), (40.0, True)):
        slant = gap * 0.7
        for left, top in (
            (x + gap, y - height / 2),
            (x - gap - width, y - height / 2),
            (x - width / 2, y - gap - height),
            (x - width / 2, y + gap),
            (x + slant, y - slant - height),
            (x - slant - width, y - slant - height),
            (x + slant, y + slant),
            (x - slant - width, y + slant),
        ):
            places.append((Box(left, top, left + width, top + height), far))
    return places
