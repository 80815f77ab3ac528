"""An explanation as a report: the whole by kinds, every node as it runs, where it differs."""

from __future__ import annotations

from mlserve_cli.explain.explanation import Explanation
from mlserve_cli.explain.nodes import Kind
from mlserve_cli.report.colours import Colour
from mlserve_cli.report.page import Page
from mlserve_cli.report.shares import Part, shares
from mlserve_cli.report.table import Cell

_COLOURS: dict[Kind, Colour] = {
    "int8": "green",
    "float": "red",
    "conversion": "amber",
    "other": "grey",
}
_MEANINGS: dict[Kind, str] = {
    "int8": "convolutions and products in int8",
    "float": "convolutions and products in float",
    "conversion": "between int8 and float",
    "other": "all else",
}


def page(found: Explanation) -> Page:
    """The whole report."""
    manifest, profile = found.package.manifest, found.profile
    made = Page(
        f"{manifest.name} {manifest.version}, {manifest.variant}",
        f"Batch {found.batch}: {profile.total_us:,.0f} µs in {len(profile.nodes)} nodes, the "
        f"median of {profile.runs} runs. Digest {manifest.digest}.",
    )
    parts = [
        Part(_MEANINGS[kind], profile.share(kind) * profile.total_us, colour)
        for kind, colour in _COLOURS.items()
    ]
    made.figure(shares(parts, title="Where the time goes", unit="µs"))
    made.section("Nodes, as they run")
    _nodes(made, found)
    if found.deviations:
        made.section("Difference from the parent")
        _deviations(made, found)
    return made


def _nodes(made: Page, found: Explanation) -> None:
    longest = max((node.microseconds for node in found.profile.nodes), default=0.0) or 1.0
    rows = []
    for node in found.profile.nodes:
        origin = found.origins[node.name]
        rows.append(
            (
                origin.node or node.name,
                node.operator,
                node.kind,
                Cell(f"{node.microseconds:,.1f}", number=True),
                Cell(bar=node.microseconds / longest, colour=_COLOURS[node.kind]),
                origin.why_float,
            )
        )
    made.table(("node", "type", "kind", "µs", "", "why in float"), rows)


def _deviations(made: Page, found: Explanation) -> None:
    # Against the worst: a hundredth is much here, and would be no bar at all of the whole.
    worst = max(item.relative_rms for item in found.deviations) or 1.0
    rows = [
        (
            item.tensor,
            item.operator,
            Cell(f"{item.relative_rms:.2%}", number=True),
            Cell(f"{item.decibels:.1f} dB", number=True),
            Cell(bar=item.relative_rms / worst, colour="red"),
        )
        for item in found.deviations
    ]
    made.table(("tensor", "made by", "relative error", "signal to noise", ""), rows)
