"""A variant of a package, and the gates it has to pass: a step, then accuracy, then speed.

The step is run into a hidden folder beside its place. Only when everything was measured does it
get a name: the one asked for if the gates let it pass, else that name with `.refused` behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import MlserveError
from mlserve_cli.package import step as steps
from mlserve_cli.package.draft import check_target, hidden_beside, move, writing
from mlserve_cli.package.other_work import OtherWork
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Step
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    from mlserve_cli.bench.compare import Ratio
    from mlserve_cli.evaluate.evaluation import Drop, Evaluation
    from mlserve_cli.pipeline.cases import Cases

DEFAULT_MAX_DROP_POINTS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a variant may cost.

    max_drop: in the metric's unit; None takes one point, or one percent of the parent's value
    where the metric is not in points; of the range of its values where those are the targets.
    batch_sizes: where the speed is compared; slower at any of them, beyond noise, is slower.
    seconds: measured for each batch size, parent and variant together.
    """

    max_drop: float | None = None
    allow_slower: bool = False
    batch_sizes: tuple[int, ...] = (1, 8)
    seconds: float = 2.0

    def allowed_drop(self, before: Evaluation) -> float:
        """The largest drop that passes, in the metric's unit."""
        if self.max_drop is not None:
            return self.max_drop
        if before.metric.unit == "points":
            return DEFAULT_MAX_DROP_POINTS
        return (abs(before.value) if before.spread is None else before.spread) / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A variant with everything that was measured of it, and why it was refused, if it was."""

    parent: Package
    package: Package
    before: Evaluation
    after: Evaluation
    drop: Drop
    ratios: tuple[Ratio, ...]
    refusals: tuple[str, ...]
    allowed: float  # the largest drop that passes, in the metric's unit
    busy: float = 0.0  # other work's share of the CPUs while the speed was measured


def make(
    build: Callable[[Iterable[Tensors] | None], Step],
    parent: Package,
    target: Path,
    *,
    cases: Cases,
    gate: Gate,
    progress: Progress,
    overwrite: bool = False,
) -> Verdict:
    """Make a variant of `parent`, measure both side by side, and put it where the gates say.

    `build` makes the step from the calibration rows (None where there are none). Raises what the
    step raises; a variant that a gate refuses is no error here: the verdict says so.
    """
    from mlserve_cli.bench.compare import compare
    from mlserve_cli.evaluate.evaluation import drop

    check_target(target, overwrite=overwrite)
    steps.check_parent(parent)
    cases.check(parent)
    step = build(cases.calibration(parent))
    step.requires(parent)  # cheap, and known before the minutes that an evaluation may take
    # First of all: rows with wrong labels are seen before hours of calibration or training.
    progress.stage("accuracy before")
    before = cases.evaluate(parent, reference=parent, progress=progress)
    with hidden_beside(target) as hidden:
        try:
            built = steps.run(
                step, parent, hidden, sample=cases.calibration(parent), progress=progress
            )
            progress.stage("accuracy after")
            after = cases.evaluate(built, reference=parent, progress=progress)
            lost = drop(before, after)
            progress.stage("speed, side by side")
            others = OtherWork()
            ratios = tuple(
                compare(
                    parent,
                    built,
                    batch_sizes=gate.batch_sizes,
                    seconds=gate.seconds,
                    progress=progress,
                )
            )
            busy = others.share()
            refusals = (
                *_unsound(built.manifest.lineage[-1].parameters),
                *_missed(built),
                *reasons(gate, before, lost, ratios),
            )
            record(built, before, after, lost, ratios, refusals, gate.allowed_drop(before), busy)
            place = _beside(target) if refusals else target
            check_target(place, overwrite=overwrite or bool(refusals))
            with writing(place):
                move(hidden, place)
        except MlserveError as error:
            # A person knows the place that was asked for, not the hidden one.
            error.message = error.message.replace(str(hidden), str(target))
            raise
    return Verdict(
        parent=parent,
        package=Package(place, built.manifest),
        before=before,
        after=after,
        drop=lost,
        ratios=ratios,
        refusals=refusals,
        allowed=gate.allowed_drop(before),
        busy=busy,
    )


def _beside(target: Path) -> Path:
    return target.with_name(target.name + ".refused")


def reasons(
    gate: Gate,
    before: Evaluation,
    lost: Drop,
    ratios: Iterable[Ratio],
    *,
    than: str = "its parent",
) -> Iterable[str]:
    """Why the gate lets a variant not pass, a phrase each; none where it does.

    than: what it was compared with.
    """
    from mlserve_cli.evaluate.wording import amount, with_unit

    allowed = gate.allowed_drop(before)
    if lost.value > allowed:
        yield (
            f"it loses {with_unit(lost.value, before.metric)} of {before.metric.name}, "
            f"and --max-drop allows {amount(allowed, before.metric)}"
        )
    if not gate.allow_slower:
        for ratio in ratios:
            if ratio.slower:
                yield f"slower than {than}: {ratio.sentence()}"


def _unsound(parameters: Mapping[str, Any]) -> Iterable[str]:
    """Why the step does not stand for its own result: its training diverged."""
    if "diverged" in parameters:
        yield str(parameters["diverged"])


def _missed(built: Package) -> Iterable[str]:
    """What the step aimed at, and measured that it did not reach."""
    for target in built.evidence("target"):
        if not target["reached"]:
            yield str(target["summary"])


def record(
    built: Package,
    before: Evaluation,
    after: Evaluation,
    lost: Drop,
    ratios: Sequence[Ratio],
    refusals: Sequence[str],
    allowed: float,
    busy: float = 0.0,
) -> None:
    """Add to the package's evidence what the gate measured, and what it said.

    busy: other work's share of the CPUs meanwhile.
    """
    built.add_evidence("accuracy", {"summary": after.sentence(), **after.facts()})
    built.add_evidence(
        "gate",
        {
            "summary": "; ".join([lost.sentence(), *(ratio.sentence() for ratio in ratios)]),
            "max_drop": allowed,
            "proof": lost.proof(allowed),
            "metric": before.metric.name,
            "unit": before.metric.unit,
            "before": before.value,
            "after": after.value,
            "drop": lost.facts(),
            "speed": [ratio.facts() for ratio in ratios],
            "refusals": list(refusals),
            "other_work": round(busy, 2),
        },
    )
