"""The search for the best way to run a model: propose, make, time, judge, mend, choose, write down.

Anytime: each trial is on the disk as soon as it is known, and so is the best package so far. Killed
at any point, a search goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mlserve_cli import __version__
from mlserve_cli.errors import MlserveError
from mlserve_cli.package.draft import check_target, hidden_beside, move, writing
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline import mending, recipe
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.recipe import Recipe
from mlserve_cli.pipeline.trying import Bench, Built, accuracy_of
from mlserve_cli.pipeline.variant import Gate
from mlserve_cli.runtime.hardware import Hardware, detect
from mlserve_cli.search import choice
from mlserve_cli.search.candidate import Candidate, Facts, propose
from mlserve_cli.search.choice import Target
from mlserve_cli.search.store import Store
from mlserve_cli.search.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is wanted. target: what is to be made small, or large. gate: what may be lost, and at
    which batch sizes speed counts. speed_up: how many times as fast the result must be at least, at
    the smallest of them; None takes what there is. budget_s: when to stop looking; None does not.
    evaluations: of accuracy, at most. seconds: of timing for each candidate and batch size.
    """

    target: Target = "latency"
    gate: Gate = field(default_factory=Gate)
    speed_up: float | None = None
    budget_s: float | None = None
    evaluations: int = 15
    seconds: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search found. best: the trial of `package`; float: the float model's own.

    reached: whether the goal is met. stopped: why the search ended before all was tried, or "".
    """

    package: Package
    best: Trial
    baseline: Trial
    trials: tuple[Trial, ...]
    goal: Goal
    hardware: Hardware
    recipe: Path
    report: Path  # where it belongs; the caller writes it
    evaluations: int
    seconds: float
    stopped: str = ""
    higher_is_better: bool = True

    @property
    def speed_up(self) -> float:
        """How many times as fast as the float model, at the smallest batch."""
        return min(self.best.speeds, key=lambda speed: speed.batch).speed_up

    @property
    def reached(self) -> bool:
        """Whether the result is as fast as was asked for."""
        return self.goal.speed_up is None or self.speed_up >= self.goal.speed_up


def optimize(
    parent: Package,
    target: Path,
    *,
    source: str,
    cases: Cases,
    goal: Goal,
    progress: Progress,
    resume: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Search, and put the best package at `target`, with its recipe beside it.

    source: what `parent` was exported from, or its own path, for the recipe. resume: take the
    trials of an earlier search with the same question, instead of dropping them.
    Raises `StepError` where there is nothing to judge accuracy with, and what opening raises.
    """
    check_target(target, overwrite=overwrite or resume)
    cases.check(parent)
    began = time.monotonic()
    hardware = detect()
    work = work_folder(target)
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    store = Store(work / "trials.sqlite", question(parent, cases, goal, hardware))
    try:
        if not resume:
            store.forget()
        bench = Bench(
            parent,
            folder=work,
            store=store,
            cases=cases,
            gate=goal.gate,
            progress=progress,
        )
        search = _Search(bench, goal, progress, began, target, source, cases)
        baseline = search.run(propose(facts_of(parent, cases, hardware)))
        best = choice.best([baseline, *store.trials()], goal.target) or baseline
        package = search.publish(best)
        trials = (baseline, *store.trials())
        _sweep(bench, trials, best)
    finally:
        store.close()
    return Outcome(
        package=package,
        best=best,
        baseline=baseline,
        trials=trials,
        goal=goal,
        hardware=hardware,
        recipe=recipe.beside(target),
        report=report_beside(target),
        evaluations=bench.evaluations,
        seconds=time.monotonic() - began,
        stopped=search.stopped,
        higher_is_better=bench.before().metric.higher_is_better,
    )


def work_folder(target: Path) -> Path:
    """Where a search keeps its trials and candidates: beside its result."""
    return target.with_name(target.name + ".search")


def report_beside(target: Path) -> Path:
    """Where the report of a search lies."""
    return target.with_name(target.name + ".report.html")


def question(parent: Package, cases: Cases, goal: Goal, hardware: Hardware) -> str:
    """What the trials of a search are the answers to; its hash. The target is no part of it."""
    facts = {
        "parent": parent.manifest.digest,
        "cases": [cases.data, cases.calibration_data, cases.target, _stamps(cases)],
        "max_drop": goal.gate.max_drop,
        "batch_sizes": goal.gate.batch_sizes,
        "allow_slower": goal.gate.allow_slower,
        "cpu": hardware.cpu_name,
        "isa": sorted(hardware.isa),
        "cores": hardware.physical_cores,
        "mlserve": __version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def facts_of(parent: Package, cases: Cases, hardware: Hardware) -> Facts:
    """What decides which candidates there are."""
    from mlserve_cli.pipeline.machine import engines
    from mlserve_cli.quantize import requirements

    quantized = False
    operators: frozenset[str] = frozenset()
    try:
        operators = requirements.operators(parent)
    except MlserveError:
        quantized = True  # or no ONNX file, of which there is nothing to make either
    return Facts(
        operators=operators,
        quantized=quantized,
        has_rows=cases.calibration(parent) is not None,
        engines=tuple(each.name for each in engines(hardware) if each.runs),
        isa=frozenset(hardware.isa),
    )


class _Search:
    """One search, from the first candidate to the last."""

    def __init__(
        self,
        bench: Bench,
        goal: Goal,
        progress: Progress,
        began: float,
        target: Path,
        source: str,
        cases: Cases,
    ) -> None:
        self._bench = bench
        self._goal = goal
        self._progress = progress
        self._began = began
        self._target = target
        self._source = source
        self._cases = cases
        self._published = ""
        self.stopped = ""

    def run(self, candidates: Sequence[Candidate]) -> Trial:
        """Try them; the float model's own trial, with its accuracy."""
        fresh: list[Built] = []
        trials: list[Trial] = []
        for candidate in candidates:
            known = self._bench.known(candidate)
            if known is not None:
                trials.append(known)
                continue
            if self._is_over():
                break
            made = self._bench.build(candidate)
            if isinstance(made, Built):
                fresh.append(made)
            else:
                trials.append(made)
        baseline = self._bench.time(fresh, seconds=self._goal.seconds)
        before = self._bench.before()
        allowed = self._goal.gate.allowed_drop(before)
        baseline = msgspec.structs.replace(baseline, accuracy=accuracy_of(before, None, allowed))
        quicker = [each for each in fresh if each.trial.state == "passed"]
        quicker.sort(key=lambda each: choice.cost(each.trial, self._goal.target))
        for built in quicker:
            if self._is_over():
                break
            trials.append(self._bench.judge(built))
            self._offer([baseline, *trials])
        self._mend(baseline, trials)
        return baseline

    def publish(self, best: Trial) -> Package:
        """Put the package of a trial in its place, with its recipe; the one before goes."""
        package = self._bench.package(best) if best.steps else self._bench.parent
        assert package is not None  # noqa: S101 - `known` and `build` have seen to it
        if best.digest != self._published:
            with writing(self._target), hidden_beside(self._target) as hidden:
                shutil.copytree(package.path, hidden)
                move(hidden, self._target)
            self._published = best.digest
        recipe.write(
            Recipe(
                source=self._source,
                digest=best.digest,
                steps=best.steps,
                data=self._cases.data,
                calibration=self._cases.calibration_data,
                target=self._cases.target,
                max_drop=self._goal.gate.max_drop,
            ),
            recipe.beside(self._target),
        )
        return Package(self._target, package.manifest)

    def _offer(self, trials: Sequence[Trial]) -> None:
        """The best so far is always on the disk."""
        best = choice.best(trials, self._goal.target)
        if best is not None and best.steps:
            self.publish(best)

    def _mend(self, baseline: Trial, trials: list[Trial]) -> None:
        """Give float back to the nodes that cost the accuracy, where that could still win."""
        best = choice.best([baseline, *trials], self._goal.target) or baseline
        worth = [
            trial
            for trial in trials
            if trial.state == "inaccurate"
            and mending.is_mendable(trial)
            and choice.cost(trial, self._goal.target) < choice.cost(best, self._goal.target)
        ]
        worth.sort(key=lambda trial: choice.cost(trial, self._goal.target))
        for trial in worth[:1]:  # the others differ in their ranges alone
            left = self._goal.evaluations - self._bench.evaluations
            if left <= 0 or self._is_over():
                return
            self._progress.say(
                f"{trial.name} is {trial.speeds[0].speed_up:.1f} times as fast and loses too much: "
                "looking for the nodes to leave in float"
            )
            found = mending.mend(
                self._bench, trial, limit=left, is_over=self._is_over, progress=self._progress
            )
            trials += found
            self._offer([baseline, *trials])

    def _is_over(self) -> bool:
        budget = self._goal.budget_s
        if budget is not None and time.monotonic() - self._began > budget:
            self.stopped = f"the budget of {budget:g} s was used up"
        elif self._bench.evaluations >= self._goal.evaluations:
            self.stopped = f"{self._goal.evaluations} evaluations of accuracy were made"
        else:
            return False
        return True


def _stamps(cases: Cases) -> list[tuple[str, int, int]]:
    """What changes when a file of rows does."""
    found = []
    for spec in (cases.data, cases.calibration_data):
        path = Path((spec or "").partition(".py:")[0] + (".py" if ".py:" in (spec or "") else ""))
        if spec and path.is_file():
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return found


def _sweep(bench: Bench, trials: Sequence[Trial], best: Trial) -> None:
    """What will not be the result of this search needs no place on the disk."""
    for trial in trials:
        if trial.state in ("failed", "slower") and trial.digest != best.digest and trial.steps:
            bench.drop_package(trial)
