"""Accuracy-aware quantization: which nodes go back to float, so that the loss is within its limit.

All nodes are ranked by the error that each makes, found in one pass (`quantize.sensitivity`), how
many of the worst must go is found by bisection, and those that win most time for their error are
given back (`search.exclusion`). Every set is a candidate of its own, on the disk once it is judged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlserve_cli.errors import MlserveError, StepError
from mlserve_cli.evaluate.wording import figure
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline.trying import Bench, Built
from mlserve_cli.search import exclusion
from mlserve_cli.search.trial import Trial

_PROFILE_RUNS = 20

_SECONDS = 0.5
"""Of timing for each set and batch size: it differs from its neighbours by a node or two."""


@dataclass(frozen=True, slots=True)
class _Tried:
    trial: Trial

    @property
    def passes(self) -> bool:
        return self.trial.state == "passed"

    @property
    def too_many(self) -> bool:
        return self.trial.state == "slower"


class _Over(Exception):
    """The time is used up."""


def mend(
    bench: Bench,
    trial: Trial,
    *,
    limit: int,
    is_over: Callable[[], bool],
    progress: Progress,
    found: Callable[[Trial], None],
) -> None:
    """Try sets of nodes in float for a candidate that loses too much.

    found: is told of each set that was tried. limit: of evaluations. Each set is timed beside the
    float model, too: one that is slower does not pass. A package that came before the last step
    (a pruned model) is what the nodes are ranked in.
    """
    candidate = trial.candidate
    progress.stage("ranking the nodes by their error")
    try:
        ranked = _ranked(bench, trial, progress)
    except MlserveError as error:
        progress.say(f"the nodes cannot be ranked: {error.message}")
        return

    def attempt(excluded: tuple[str, ...]) -> _Tried:
        changed = bench.named(candidate.excluding(excluded))
        known = bench.known(changed)
        if known is None:
            if is_over():
                raise _Over
            made = bench.build(changed)
            if isinstance(made, Built):
                bench.time([made], seconds=_SECONDS)
                known = made.trial if made.trial.state == "slower" else bench.judge(made)
            else:
                known = made
        found(known)
        if known.accuracy is not None:
            unit = known.accuracy.unit
            loss = f"{figure(known.accuracy.drop, unit)} {unit}".rstrip()
            progress.say(
                f"{len(excluded)} of {len(ranked)} nodes in float: loss {loss}, "
                f"{known.speeds[0].speed_up:.2f} times as fast"
            )
        return _Tried(known)

    try:
        exclusion.search(ranked, attempt, limit=limit, worth=_worth(bench, trial))
    except _Over:
        progress.say("the time is used up; the best so far counts")


def _ranked(bench: Bench, trial: Trial, progress: Progress) -> list[str]:
    """The float model's heavy nodes, the one that makes most error first.

    Those that were to stay in float from the start are not among them.
    """
    import onnx

    from mlserve_cli.quantize import sensitivity
    from mlserve_cli.quantize.calibration.collection import collect
    from mlserve_cli.quantize.calibration.rows import gather
    from mlserve_cli.quantize.prepare import prepare
    from mlserve_cli.quantize.selection import select

    parameters: Mapping[str, object] = trial.candidate.steps[-1].parameters
    start = bench.before_last(trial)
    source = bench.calibration(start)
    if source is None:
        raise StepError("there are no rows to rank them with.")
    with tempfile.TemporaryDirectory(prefix="mlserve-rank-") as name:
        folder = Path(name)
        prepared = onnx.load(prepare(start.model, folder))
        excluded = parameters.get("exclude", ())
        assert isinstance(excluded, (list, tuple))  # noqa: S101 - as a recipe has it
        selection = select(prepared, [str(each) for each in excluded])
        rows = gather(source, folder / "rows", inputs=start.manifest.inputs, progress=progress)
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
        parents = _times(explain(bench.before_last(trial), runs=_PROFILE_RUNS))
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
