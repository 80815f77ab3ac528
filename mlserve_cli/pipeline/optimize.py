"""The search for the best way to run a model: propose, make, time, judge, mend, choose, write down.

Anytime: each trial is on the disk as soon as it is known, and so is the best package so far. Killed
at any point, a search goes on where it was.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlserve_cli import __version__
from mlserve_cli.errors import MlserveError, StepError
from mlserve_cli.package import draft
from mlserve_cli.package.draft import check_target, writing
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline import networks, recipe
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.limits import limits
from mlserve_cli.pipeline.recipe import Recipe
from mlserve_cli.pipeline.searching import Goal, Search
from mlserve_cli.pipeline.trying import Bench
from mlserve_cli.runtime.hardware import Hardware, detect
from mlserve_cli.search import choice, proposals
from mlserve_cli.search.choice import Choice
from mlserve_cli.search.networks import plan, reached
from mlserve_cli.search.proposals import Facts
from mlserve_cli.search.store import Store
from mlserve_cli.search.trial import Trial

__all__ = ["Goal", "Outcome", "facts_of", "optimize", "question", "report_beside", "work_folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search found. best: the trial of `package`; baseline: the float model's own.

    reached: whether the goal is met. stopped: why the search ended before all was tried, or "".
    reason: why the best is not the cheapest of those that cost the same within noise, or "".
    limits: where the goal is not reached, sentences on what stands in the way. untrained: why
    networks that could have been trained were not.
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
    reason: str = ""
    limits: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()
    higher_is_better: bool = True

    @property
    def speed_up(self) -> float:
        """How many times as fast as the float model, at the smallest batch."""
        return min(self.best.figures, key=lambda speed: speed.batch).speed_up

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
    generators: Sequence[proposals.Generator] = proposals.GENERATORS,
) -> Outcome:
    """Search, and put the best package at `target`, with its recipe beside it.

    source: what `parent` was exported from, or its own path, for the recipe. resume: take the
    trials of an earlier search with the same question, instead of dropping them. generators: of
    candidates.
    Raises `StepError` where there is nothing to judge accuracy with, or no memory for any of it,
    and what opening raises.
    """
    check_target(target, overwrite=overwrite or resume)
    cases.check(parent)
    began = time.monotonic()
    hardware = detect()
    facts = facts_of(parent, cases, hardware, goal)
    _require_memory(parent, facts)
    if goal.train_budget_s is not None:
        training = networks.training_of(parent, goal.train_budget_s, progress)
        facts = replace(facts, training=training)
    with (
        prepared(target) as work,
        closing(Store(work / "trials.sqlite", question(parent, cases, goal, hardware))) as store,
    ):
        if not resume:
            store.forget()
        bench = Bench(
            parent, folder=work, store=store, cases=cases, gate=goal.gate, progress=progress
        )
        place = _Place(bench, target, source, cases, goal)
        search = Search(bench, goal, progress, began=began, offer=place.put)
        search.run(facts, hardware, generators=generators)
        baseline = bench.baseline(seconds=goal.seconds)
        trials = (baseline, *bench.trials())
        chosen = _choose(trials, goal)
        best = chosen.trial
        package = place.put(best)
        bench.sweep(best)
    found = Outcome(
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
        reason=chosen.reason(goal.target),
        untrained=tuple(_untrained(facts, trials)),
        higher_is_better=bench.before().metric.higher_is_better,
    )
    if found.reached or goal.speed_up is None:
        return found
    progress.stage("what stands in the way")
    return replace(found, limits=limits(package, best, baseline, trials, wanted=goal.speed_up))


def _untrained(facts: Facts, trials: Sequence[Trial]) -> Iterator[str]:
    """Why some of the networks that could be trained were not; nothing where nobody asked."""
    if facts.training.obstacle:
        yield facts.training.obstacle
    left = plan(facts.training, trials, facts.speed_up)
    if reached(trials, facts.speed_up):
        if left.fitting:
            names = ", ".join(network.name for network in left.fitting)
            yield f"the goal was reached without training {names}"
        return
    yield from left.reasons


def _choose(trials: Sequence[Trial], goal: Goal) -> Choice:
    """Among those of the last contest where there was one: they were timed in one run."""
    tuned = [trial for trial in trials if trial.tuned]
    found = choice.choose(tuned, goal.target) or choice.choose(trials, goal.target)
    return found or Choice(trials[0], (trials[0],))


class _Place:
    """Where the best so far lies, with its recipe."""

    def __init__(self, bench: Bench, target: Path, source: str, cases: Cases, goal: Goal) -> None:
        self._bench = bench
        self._target = target
        self._source = source
        self._cases = cases
        self._goal = goal
        self._digest = ""

    def put(self, best: Trial) -> Package:
        """Put the package of a trial in its place, with its recipe; the one before goes."""
        package = self._bench.package(best)
        if package is None:
            raise StepError(
                f"the package of '{best.name}' was changed while the search ran.",
                hint="search again; --resume takes what is left",
            )
        if best.digest != self._digest:
            draft.copy(package.path, self._target)
            self._digest = best.digest
        placed = Package(self._target, package.manifest)
        if best.tuned and not placed.evidence("serving"):
            placed.add_evidence("serving", _serving(best))
        recipe.write(
            Recipe(
                source=self._source,
                digest=best.digest,
                steps=best.steps,
                data=self._cases.data,
                calibration=self._cases.calibration_data,
                target=self._cases.target,
                max_drop=self._goal.gate.max_drop,
                serving=_settings(best) if best.tuned else {},
            ),
            recipe.beside(self._target),
        )
        return placed


def _settings(best: Trial) -> dict[str, Any]:
    return {"engine": best.engine, "threads": best.threads, "instances": best.instances}


def _serving(best: Trial) -> dict[str, Any]:
    """The evidence of how it is best run here."""
    import msgspec

    from mlserve_cli.runtime.hardware import detect

    several = f", {best.instances} instances side by side" if best.instances > 1 else ""
    threads = f"{best.threads} thread{'s' if best.threads > 1 else ''}"
    return {
        "summary": f"run best with {threads}{several} on {detect().cpu_name}",
        **_settings(best),
        "speeds": [msgspec.to_builtins(speed) for speed in best.tuned],
    }


def _require_memory(parent: Package, facts: Facts) -> None:
    """Raise `StepError` before anything starts, where not even the least candidate has room."""
    from mlserve_cli.quantize import memory

    if proposals.propose(facts):
        memory.require(parent, copies=memory.WEIGHTS)


@contextmanager
def prepared(target: Path) -> Iterator[Path]:
    """The folder of a search, made if need be; what a killed one left half written is gone.

    Raises `StepError` while another search is at work there: each would sweep up after the other.
    """
    work = work_folder(target)
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
        held = os.open(work, os.O_RDONLY)
    try:
        _hold(work, held)
        _sweep(target, work)
        yield work
    finally:
        os.close(held)


def _hold(work: Path, held: int) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # a disk that knows no locks
        raise StepError(
            f"another search is at work in '{work}'.",
            hint="wait until it has ended, or choose another output",
        ) from error


def _sweep(target: Path, work: Path) -> None:
    draft.sweep(target)
    ends = ("part", draft.HELD.removeprefix("."))
    half = [f"{below}.*.{end}" for below in ("", ".prefixes/") for end in ends]
    for pattern in (*half, ".*.old"):
        for left in work.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


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


def facts_of(parent: Package, cases: Cases, hardware: Hardware, goal: Goal) -> Facts:
    """What decides which candidates there are."""
    from mlserve_cli.pipeline.machine import engines
    from mlserve_cli.quantize import requirements
    from mlserve_cli.training import source

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
        engine=parent.manifest.engine,
        isa=frozenset(hardware.isa),
        quantizers=tuple(
            name for name, module in _QUANTIZERS.items() if importlib.util.find_spec(module)
        ),
        has_module=(parent.source / source.SOURCE_JSON).is_file(),
        target=goal.target,
        speed_up=goal.speed_up,
    )


_QUANTIZERS = {"nncf": "nncf", "neural-compressor": "neural_compressor"}
"""Beside our own → the module that shows that it is installed; it is not imported."""


def _stamps(cases: Cases) -> list[tuple[str, int, int]]:
    """What changes when a file of rows does, or one of a folder."""
    found = []
    for spec in filter(None, (cases.data, cases.calibration_data)):
        path = Path(spec.partition(".py:")[0] + ".py" if ".py:" in spec else spec)
        for file in sorted(path.rglob("*")) if path.is_dir() else (path,):
            if not file.is_file():
                continue
            status = file.stat()
            found.append((str(file), status.st_size, status.st_mtime_ns))
    return found
