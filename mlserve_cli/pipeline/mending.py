"""Accuracy-aware quantization: which nodes go back to float, so that the loss is within its limit.

All nodes are ranked by their own error in one pass (`quantize.sensitivity`), how many of the worst
must go is found by bisection, and those that win most time for their error are given back
(`search.exclusion`). The best set so far is always on the disk, as a candidate of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlserve_cli.errors import MlserveError, StepError
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline.trying import Bench, Built
from mlserve_cli.search import exclusion
from mlserve_cli.search.candidate import Candidate, StepChoice
from mlserve_cli.search.trial import Trial

_PROFILE_RUNS = 20


@dataclass(frozen=True, slots=True)
class _Tried:
    trial: Trial

    @property
    def passes(self) -> bool:
        return self.trial.state == "passed"


class _Over(Exception):
    """The time is used up."""


def is_mendable(trial: Trial) -> bool:
    """Whether a candidate has nodes that could be left in float: its last step is static int8."""
    last = trial.steps[-1] if trial.steps else {}
    return last.get("step") == "quantize" and last.get("method", "static") == "static"


def mend(
    bench: Bench,
    trial: Trial,
    *,
    limit: int,
    is_over: Callable[[], bool],
    progress: Progress,
) -> list[Trial]:
    """Try sets of nodes in float for a candidate that loses too much; the trials, as they came.

    limit: of evaluations. Each set is timed beside the float model, too: one that is no longer
    faster does not pass.
    """
    candidate = _candidate(trial)
    progress.stage("ranking the nodes by their error")
    try:
        ranked = _ranked(bench, progress)
    except MlserveError as error:
        progress.say(f"the nodes cannot be ranked: {error.message}")
        return []
    found: list[Trial] = []

    def attempt(excluded: tuple[str, ...]) -> _Tried:
        changed = candidate.excluding(excluded)
        known = bench.known(changed)
        if known is None:
            if is_over():
                raise _Over
            made = bench.build(_numbered(changed, len(found)))
            if isinstance(made, Built):
                bench.time([made], seconds=0.5)
                known = made.trial if made.trial.state == "slower" else bench.judge(made)
            else:
                known = made
        found.append(known)
        if known.accuracy is not None:
            progress.say(
                f"{len(excluded)} of {len(ranked)} nodes in float: loss {known.accuracy.drop:.2f} "
                f"{known.accuracy.unit}, {known.speeds[0].speed_up:.2f} times as fast"
            )
        return _Tried(known)

    try:
        exclusion.search(ranked, attempt, limit=limit, worth=_worth(bench, trial))
    except _Over:
        progress.say("the time is used up; the best so far counts")
    return found


def _candidate(trial: Trial) -> Candidate:
    return Candidate(
        name=trial.name,
        steps=tuple(
            StepChoice(
                step=str(each["step"]),
                parameters={key: value for key, value in each.items() if key != "step"},
            )
            for each in trial.steps
        ),
        why=trial.why,
    )


def _numbered(candidate: Candidate, number: int) -> Candidate:
    """A name of its own, as each set is a package of its own."""
    return Candidate(
        name=f"{candidate.name}-{number + 1}", steps=candidate.steps, why=candidate.why
    )


def _ranked(bench: Bench, progress: Progress) -> list[str]:
    """The float model's heavy nodes, the one that makes most error alone first."""
    import onnx

    from mlserve_cli.quantize import sensitivity
    from mlserve_cli.quantize.calibration.collection import collect
    from mlserve_cli.quantize.calibration.rows import gather
    from mlserve_cli.quantize.prepare import prepare
    from mlserve_cli.quantize.selection import select

    source = bench.calibration()
    if source is None:
        raise StepError("there are no rows to rank them with.")
    with tempfile.TemporaryDirectory(prefix="mlserve-rank-") as name:
        folder = Path(name)
        prepared = onnx.load(prepare(bench.parent.model, folder))
        selection = select(prepared)
        rows = gather(
            source, folder / "rows", inputs=bench.parent.manifest.inputs, progress=progress
        )
        collected = collect(prepared, selection.tensors, rows, folder, progress=progress)
        found = sensitivity.rank(
            prepared, selection, collected.ranges, rows, folder, progress=progress
        )
    return [each.node for each in found]


def _worth(bench: Bench, trial: Trial) -> dict[str, float]:
    """Microseconds that each node wins in int8 against float, by its name; empty if unknown."""
    from mlserve_cli.explain.explanation import explain

    package = bench.package(trial)
    if package is None:
        return {}
    try:
        mine = _times(explain(package, runs=_PROFILE_RUNS))
        parents = _times(explain(bench.parent, runs=_PROFILE_RUNS))
    except MlserveError:
        return {}
    return {name: max(0.0, parents[name] - mine[name]) for name in parents.keys() & mine.keys()}


def _times(found: object) -> dict[str, float]:
    from mlserve_cli.explain.explanation import Explanation

    assert isinstance(found, Explanation)  # noqa: S101 - imported late
    return {
        found.origins[node.name].node: node.microseconds
        for node in found.profile.nodes
        if node.kind in ("int8", "float") and found.origins[node.name].node
    }
