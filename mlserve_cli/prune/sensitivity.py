"""How much each layer minds being pruned: it alone, at a few ratios, without any training.

Channels and heads are silenced, which answers as taking them out does; blocks are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlserve_cli.package.progress import Progress
from mlserve_cli.prune import blocks, channels, heads, tracing
from mlserve_cli.prune.heads import HeadCut
from mlserve_cli.prune.network import Survey
from mlserve_cli.training import history

if TYPE_CHECKING:
    import torch

Rows = Sequence[tuple["torch.Tensor", ...]]
"""Batches of inputs."""

Judge = Callable[["torch.nn.Module"], float]
"""A network → its metric, where more may be better or worse."""

RATIOS = (0.25, 0.5, 0.75)

MOST = 0.9
"""No layer loses more than this when ratios follow sensitivity: beyond what was measured nothing
is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One layer pruned alone.

    stay: channels or heads that stay. error: root mean square of the answers' change over that of
    the answers. agreement: share of rows whose largest answer stays the same. value: the metric.
    """

    ratio: float
    stay: int
    error: float
    agreement: float
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """What can go by itself: `count` channels of a group, heads of an attention, or a block."""

    name: str
    kind: Literal["channels", "heads", "block"]
    count: int
    points: tuple[Point, ...]

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "layer": self.name,
            "kind": self.kind,
            "count": self.count,
            "points": [
                {name: getattr(point, name) for name in Point.__slots__} for point in self.points
            ],
        }


def measure(
    survey: Survey,
    rows: Rows,
    *,
    ratios: Sequence[float] = RATIOS,
    judge: Judge | None = None,
    with_blocks: bool = True,
    progress: Progress,
) -> list[Unit]:
    """Every unit of `survey` at each of `ratios`, a block as a whole; the most sensitive first."""
    whole = [tracing.answers(survey.module, batch) for batch in rows]
    skippable = blocks.find(survey.module, survey.example) if with_blocks else []
    progress.stage(
        "pruning each layer alone",
        len(ratios) * (len(survey.groups) + len(survey.attention)) + len(skippable),
    )

    def point(module: torch.nn.Module, ratio: float, stay: int) -> Point:
        found = [tracing.answers(module, batch) for batch in rows]
        made = Point(
            ratio=ratio,
            stay=stay,
            error=_error(whole, found),
            agreement=_agreement(whole, found),
            value=None if judge is None else judge(module),
        )
        progress.advance(note=f"{made.agreement:.0%} agree")
        return made

    units = [
        *_channels(survey, ratios, point),
        *_heads(survey, ratios, point),
    ]
    for block in skippable:
        module = tracing.duplicate(survey.module)
        history.skip(module, block.name, block.returns)
        try:
            units.append(Unit(block.name, "block", 1, (point(module, 1.0, 0),)))
        except Exception:  # noqa: S112  (the user's forward() may raise anything without it)
            continue
    return sorted(units, key=lambda unit: -max((each.error for each in unit.points), default=0.0))


def shares(units: Sequence[Unit], ratio: float) -> dict[str, float]:
    """Ratios by which every layer makes the same error, and all together lose `ratio`.

    Between the points the error is taken for straight, and nothing beyond `MOST` is taken.
    """
    counted = [unit for unit in units if unit.kind != "block"]
    total = sum(unit.count for unit in counted)
    low, high = 0.0, max((p.error for unit in counted for p in unit.points), default=0.0) * 8 + 1
    found: dict[str, float] = {}
    for _ in range(40):
        error = (low + high) / 2
        found = {unit.name: _ratio_at(unit, error) for unit in counted}
        if sum(found[unit.name] * unit.count for unit in counted) < ratio * total:
            low = error
        else:
            high = error
    return found


def _ratio_at(unit: Unit, error: float) -> float:
    ratios = [0.0, *(each.ratio for each in unit.points)]
    errors = np.maximum.accumulate([0.0, *(each.error for each in unit.points)])
    # Strictly rising, by a thousandth where it is flat, so that a ratio belongs to each error.
    rising = errors + np.arange(len(errors)) * max(errors[-1], 1e-9) / 1000
    if error >= rising[-1]:
        # As steep as from nothing to the last point, up to the most that is ever taken.
        return float(min(MOST, ratios[-1] * error / rising[-1]))
    return float(min(MOST, np.interp(error, rising, ratios)))


_Measured = Callable[["torch.nn.Module", float, int], Point]


def _channels(survey: Survey, ratios: Sequence[float], point: _Measured) -> Iterator[Unit]:
    wanted = [(group, group.kept(ratio)) for group in survey.groups for ratio in ratios]
    seen: dict[str, dict[int, Point]] = {}
    cuts = [(group, stay) for group, stay in wanted if stay < group.channels]
    masked = channels.silenced(
        survey.module, survey.example, (group.cut(stay) for group, stay in cuts)
    )
    for (group, stay), module in zip(cuts, masked, strict=True):
        known = seen.setdefault(group.layer, {})
        if stay not in known:  # two ratios may round to the same number
            known[stay] = point(module, 1 - stay / group.channels, stay)
    for group in survey.groups:
        points = tuple(seen.get(group.layer, {}).values())
        if points:
            yield Unit(group.layer, "channels", group.channels, points)


def _heads(survey: Survey, ratios: Sequence[float], point: _Measured) -> Iterator[Unit]:
    for found, scores in survey.attention:
        order = [head for _, head in sorted(zip(scores, range(found.heads), strict=True))]
        points: dict[int, Point] = {}
        for ratio in ratios:
            stay = heads.kept(found.heads, ratio)
            if stay < found.heads and stay not in points:
                module = tracing.duplicate(survey.module)
                heads.silence(module, HeadCut(found, tuple(order[: found.heads - stay])))
                points[stay] = point(module, 1 - stay / found.heads, stay)
        if points:
            yield Unit(found.name, "heads", found.heads, tuple(points.values()))


def _error(whole: list[list[torch.Tensor]], found: list[list[torch.Tensor]]) -> float:
    pairs = [
        (a.double(), b.double())
        for batch, other in zip(whole, found, strict=True)
        for a, b in zip(batch, other, strict=True)
        if a.is_floating_point()
    ]
    error = sum(float((a - b).square().sum()) for a, b in pairs)
    signal = sum(float(a.square().sum()) for a, _ in pairs)
    return float((error / max(signal, 1e-30)) ** 0.5)


def _agreement(whole: list[list[torch.Tensor]], found: list[list[torch.Tensor]]) -> float:
    same = total = 0
    for batch, other in zip(whole, found, strict=True):
        a, b = batch[0], other[0]
        if a.ndim < 2 or a.shape[1] < 2:
            return float("nan")  # there is no largest answer
        equal = a.argmax(1) == b.argmax(1)
        same, total = same + int(equal.sum()), total + equal.numel()
    return same / max(total, 1)
