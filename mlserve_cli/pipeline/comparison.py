"""Two packages point by point: what a variant goes through, for any two that answer alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve_cli.errors import StepError
from mlserve_cli.package.kinship import kinship
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.signature import difference
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.variant import Gate, Verdict, reasons
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.tensors import rows

if TYPE_CHECKING:
    from mlserve_cli.evaluate.disagreement import Disagreement
    from mlserve_cli.evaluate.evaluation import Evaluation, Watch

LIMIT_ROWS = 10
"""Rows with different decisions that are shown; more of them nobody reads in a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was found: the first package stands in the verdict as the parent, whatever made it.

    names: how sentences call the two. source: which rows both were judged on.
    kinship: how they are related. disagreement: None where their outputs decide nothing.
    """

    verdict: Verdict
    names: tuple[str, str]
    source: str
    kinship: str
    disagreement: Disagreement | None


def compare(
    first: Path,
    second: Path,
    *,
    data: str | None,
    target: str | None,
    gate: Gate,
    limit_rows: int = LIMIT_ROWS,
    progress: Progress,
) -> Comparison:
    """Judge both on the same rows and time them in turn.

    The rows: `data`; else evaluation() of the first package's definition, or of the second's; else
    the first's golden rows. Rows without targets are judged by agreement with the first.
    Raises `StepError` naming the difference where their signatures differ.
    """
    from mlserve_cli.bench.compare import compare as in_turn
    from mlserve_cli.bench.subject import labels
    from mlserve_cli.evaluate.disagreement import Decided, Differences
    from mlserve_cli.evaluate.evaluation import drop

    one, other = Package.open(first), Package.open(second)
    found = labels([one, other])
    names = (found[0], found[1])
    unlike = difference(one, other, names)
    if unlike is not None:
        raise StepError(
            f"'{names[0]}' and '{names[1]}' have different signatures: {unlike}",
            hint="'mlserve evaluate' and 'mlserve bench' measure each by itself",
        )
    cases, source = _cases(one, other, names, data=data, target=target)
    decided = Decided(one)
    progress.stage(f"accuracy of {names[0]}")
    before = _evaluate(one, one, cases, progress, decided)
    differences = Differences(decided, other, limit_rows)
    progress.stage(f"accuracy of {names[1]}")
    after = _evaluate(other, one, cases, progress, differences)
    lost = drop(before, after)
    progress.stage("speed, side by side")
    ratios = tuple(
        in_turn(one, other, batch_sizes=gate.batch_sizes, seconds=gate.seconds, progress=progress)
    )
    return Comparison(
        verdict=Verdict(
            parent=one,
            package=other,
            before=before,
            after=after,
            drop=lost,
            ratios=ratios,
            refusals=tuple(reasons(gate, before, lost, ratios, than=f"'{names[0]}'")),
            allowed=gate.allowed_drop(before),
        ),
        names=names,
        source=source,
        kinship=kinship(one, other, names),
        disagreement=differences.found(),
    )


def _cases(
    first: Package,
    second: Package,
    names: tuple[str, str],
    *,
    data: str | None,
    target: str | None,
) -> tuple[Cases, str]:
    cases = Cases.of(first, data=data, target=target)
    if data is not None:
        return cases, data
    for found, name in ((cases, names[0]), (Cases.of(second), names[1])):
        if found.can_judge:
            return found, f"evaluation() of the definition of {name}"
    count = rows(golden.read(first.serve).inputs)
    return cases, f"the {count} golden rows of {names[0]}; --data FILE would say more"


def _evaluate(
    package: Package, first: Package, cases: Cases, progress: Progress, watch: Watch
) -> Evaluation:
    if cases.can_judge:
        return cases.evaluate(package, reference=first, progress=progress, watch=watch)
    from mlserve_cli.evaluate.cases import from_reference
    from mlserve_cli.evaluate.evaluation import evaluate

    same = from_reference(first, [golden.read(first.serve).inputs])
    return evaluate(package, same, progress=progress, watch=watch)
