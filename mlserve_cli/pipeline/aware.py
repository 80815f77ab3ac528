"""Accuracy-aware quantization: as much in int8 as the accuracy allows, and the rest in float.

The model is quantized whole. If that loses too much, its nodes are ranked and given back to float
(`mending`). The best so far is always on the disk: at the place asked for once a set passes, beside
it as `.refused` before that. Every set lies in a store, so that a stopped search goes on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mlserve_cli.errors import StepError
from mlserve_cli.package import draft
from mlserve_cli.package import step as steps
from mlserve_cli.package.draft import check_target
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline import mending
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.optimize import prepared, question
from mlserve_cli.pipeline.searching import Goal
from mlserve_cli.pipeline.trying import Bench, Built
from mlserve_cli.pipeline.variant import Verdict
from mlserve_cli.runtime.hardware import detect
from mlserve_cli.search import choice
from mlserve_cli.search.candidate import Candidate, StepChoice
from mlserve_cli.search.store import Store
from mlserve_cli.search.trial import Trial

NAME = "int8"

EVALUATIONS = 15
"""Bisection over a hundred nodes takes seven; the rest gives nodes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aware:
    """What came of it. verdict: on the best set, whether or not it passes.

    excluded: the nodes that it leaves in float. evaluations: of accuracy, in this run. stopped: why
    the search ended early, or "".
    """

    verdict: Verdict
    excluded: tuple[str, ...]
    trials: tuple[Trial, ...]
    evaluations: int
    seconds: float
    stopped: str = ""


def quantize(
    step: StepChoice,
    parent: Package,
    target: Path,
    *,
    cases: Cases,
    goal: Goal,
    progress: Progress,
    resume: bool = False,
    overwrite: bool = False,
) -> Aware:
    """Take `step`, static int8, with `parent`, leaving in float what the accuracy needs.

    A result that no gate refuses lies at `target`, the best of the others beside it with `.refused`
    behind its name. Raises what the step raises, and `StepError` where there is nothing to judge
    accuracy with.
    """
    check_target(target, overwrite=overwrite or resume)
    steps.check_parent(parent)
    cases.check(parent)
    began = time.monotonic()
    with (
        prepared(target) as work,
        closing(Store(work / "trials.sqlite", question(parent, cases, goal, detect()))) as store,
    ):
        if not resume:
            store.forget()
        bench = Bench(
            parent, folder=work, store=store, cases=cases, gate=goal.gate, progress=progress
        )
        search = _Search(bench, goal, target, progress, began)
        best = search.run(Candidate(name=NAME, steps=(step,), why="all of it in int8"))
        package = search.put(best)
        verdict = bench.verdict(best, package)
        trials = tuple(bench.trials())
        bench.sweep(best)
    return Aware(
        verdict=verdict,
        excluded=tuple(best.steps[-1].get("exclude", ())),
        trials=trials,
        evaluations=bench.evaluations,
        seconds=time.monotonic() - began,
        stopped=search.stopped,
    )


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The fastest that passed; else the one that loses least, of those that were judged at all.

    Of those that are as fast within noise, the more accurate.
    """
    passed = [trial for trial in trials if trial.state == "passed"]
    if passed:
        # Whether it beats the float model is for the gate to say: --allow-slower may let it pass.
        return choice.among(passed, "latency").trial
    judged = [trial for trial in trials if trial.accuracy is not None]
    return min(judged, key=lambda each: each.accuracy.drop if each.accuracy else 0.0, default=None)


class _Search:
    """The whole model first, then sets of its nodes."""

    def __init__(
        self, bench: Bench, goal: Goal, target: Path, progress: Progress, began: float
    ) -> None:
        self._bench = bench
        self._goal = goal
        self._target = target
        self._progress = progress
        self._began = began
        self._put: tuple[str, Path] | None = None
        self.stopped = ""

    def run(self, candidate: Candidate) -> Trial:
        """The best trial of all. Raises what making the whole one raises."""
        self._bench.before()
        whole = self._bench.known(candidate)
        if whole is None:
            built: Built = self._bench.make(candidate)
            self._bench.time([built], seconds=self._goal.seconds)
            # What is slower is judged, too: somebody waits for both figures.
            whole = self._bench.judge(built)
        if whole.state == "failed":
            raise StepError(whole.reason)
        self._offer()
        left = self._goal.evaluations - self._bench.evaluations
        if whole.state == "inaccurate" and left > 0 and not self._is_over():
            self._progress.say(
                f"in int8 it loses too much ({whole.reason}): looking for the nodes to leave in "
                "float"
            )
            mending.mend(
                self._bench,
                whole,
                limit=left,
                is_over=self._is_over,
                progress=self._progress,
                found=lambda _: self._offer(),
            )
            self._is_over()  # to say so, where it ended there
        best = best_of(self._bench.trials())
        return best or whole

    def put(self, best: Trial) -> Package:
        """Put the package of a trial in its place; what was put before it goes."""
        refused = self._target.with_name(self._target.name + ".refused")
        place = self._target if best.state == "passed" else refused
        package = self._bench.package(best)
        if package is None:
            raise StepError(
                f"the package of '{best.name}' was changed while the search ran.",
                hint="search again; --resume takes what is left",
            )
        if self._put != (best.digest, place):
            check_target(place, overwrite=True)
            draft.copy(package.path, place)
            self._put = (best.digest, place)
            if place == self._target and refused.is_dir():
                check_target(refused, overwrite=True)
                shutil.rmtree(refused)
        return Package(place, package.manifest)

    def _offer(self) -> None:
        best = best_of(self._bench.trials())
        if best is not None:
            self.put(best)

    def _is_over(self) -> bool:
        budget = self._goal.budget_s
        if budget is not None and time.monotonic() - self._began > budget:
            self.stopped = f"the budget of {budget:g} s was used up"
        elif self._bench.evaluations >= self._goal.evaluations:
            self.stopped = f"{self._goal.evaluations} evaluations of accuracy were made"
        else:
            return False
        return True
