"""Sensitivity as a report: one plot of all layers, and a table of every point."""

from __future__ import annotations

from mlserve_cli.pipeline.sensitivity import Report
from mlserve_cli.prune.sensitivity import Unit
from mlserve_cli.report.axes import Axis
from mlserve_cli.report.bars import Bar, bars
from mlserve_cli.report.lines import Series, lines
from mlserve_cli.report.page import Page
from mlserve_cli.report.table import Cell

_DRAWN = 8
"""More lines than that cannot be told apart; the table has all."""


def page(found: Report) -> Page:
    """The whole report."""
    manifest = found.package.manifest
    judged = (
        f"{found.metric.name} {found.whole:.4g} {found.metric.unit} on {found.n} rows. "
        if found.metric is not None
        else ""
    )
    made = Page(
        f"{manifest.name} {manifest.version}, {manifest.variant}: sensitivity to pruning",
        f"Each layer pruned alone, without training. {judged}Answers are compared on "
        f"{found.compared} rows of calibration(), or the package's own. Digest {manifest.digest}.",
    )
    several = [unit for unit in found.units if unit.kind != "block"]
    if several:
        made.section("Channels and heads")
        made.figure(
            lines(
                [_series(unit, found) for unit in several[:_DRAWN]],
                Axis("share taken out", include=(0.0,)),
                _loss_axis(found),
                title=f"The {min(_DRAWN, len(several))} most sensitive layers",
            ),
            "A steep line is a layer to leave alone; a flat one can be cut deeply.",
        )
    blocks = [unit for unit in found.units if unit.kind == "block"]
    if blocks:
        made.section("Whole blocks")
        made.figure(
            bars(
                [Bar(unit.name, unit.points[0].error) for unit in blocks],
                Axis("change of the answers", include=(0.0,)),
                title="Answers without the block",
            ),
            "Root mean square of the change, over that of the answers.",
        )
    _table(made, found)
    if found.left:
        made.section("Left as they are")
        made.table(("layer", "reason"), list(found.left.items()))
    return made


def _series(unit: Unit, found: Report) -> Series:
    points = unit.points
    if found.whole is None:
        values = [each.error for each in points]
    else:
        values = [lost(found, each.value) or 0.0 for each in points]
    return Series(unit.name, [0.0, *(each.ratio for each in points)], [0.0, *values])


def _loss_axis(found: Report) -> Axis:
    if found.metric is None:
        return Axis("change of the answers", include=(0.0,), better="low")
    return Axis(f"{found.metric.name} lost", found.metric.unit, include=(0.0,), better="low")


def lost(found: Report, value: float | None) -> float | None:
    """How much worse the metric is, in its unit; None where there is none."""
    if value is None or found.whole is None or found.metric is None:
        return None
    return found.whole - value if found.metric.higher_is_better else value - found.whole


def _table(made: Page, found: Report) -> None:
    made.section("Every point")
    rows = [
        (
            unit.name,
            unit.kind,
            Cell(f"{unit.count} → {point.stay}", number=True),
            Cell(f"{point.ratio:.0%}", number=True),
            point.value,
            lost(found, point.value),
            Cell(
                f"{point.agreement:.1%}" if point.agreement == point.agreement else "", number=True
            ),
            Cell(f"{point.error:.3f}", number=True, bar=min(1.0, point.error), colour="red"),
        )
        for unit in found.units
        for point in unit.points
    ]
    name = "metric" if found.metric is None else found.metric.name
    made.table(
        ("layer", "kind", "stay", "taken out", name, "lost", "same decision", "change of answers"),
        rows,
    )
