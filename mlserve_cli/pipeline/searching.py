"""The order of a search: waves of candidates made, timed and judged; mending; a last contest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline import contest, mending
from mlserve_cli.pipeline.trying import Bench, Built
from mlserve_cli.pipeline.variant import Gate
from mlserve_cli.search import choice, networks, proposals
from mlserve_cli.search.candidate import Candidate
from mlserve_cli.search.choice import Target
from mlserve_cli.search.networks import Training
from mlserve_cli.search.proposals import Facts
from mlserve_cli.search.trial import Trial

if TYPE_CHECKING:
    from mlserve_cli.runtime.hardware import Hardware

FINALISTS = 3
"""Candidates that are timed with other numbers of threads, beside the float model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is wanted. target: what is to be made small, or large. gate: what may be lost, and at
    which batch sizes speed counts. speed_up: how many times as fast the result must be at least, at
    the smallest of them; None takes what there is. budget_s: when to stop looking; None does not.
    evaluations: of accuracy, at most. seconds: of timing for each candidate and batch size.
    train_budget_s: of training, for smaller networks; None trains nothing.
    """

    target: Target = "latency"
    gate: Gate = field(default_factory=Gate)
    speed_up: float | None = None
    budget_s: float | None = None
    evaluations: int = 15
    seconds: float = 1.0
    train_budget_s: float | None = None


class Search:
    """One search, from the first candidate to the last.

    offer: is told of the best so far whenever that may have changed.
    """

    def __init__(
        self,
        bench: Bench,
        goal: Goal,
        progress: Progress,
        *,
        began: float,
        offer: Callable[[Trial], object],
    ) -> None:
        self._bench = bench
        self._goal = goal
        self._progress = progress
        self._began = began
        self._offer_to = offer
        self._mended: set[str] = set()
        self._networks = 0
        self.stopped = ""

    def run(
        self,
        facts: Facts,
        hardware: Hardware,
        *,
        generators: Sequence[proposals.Generator] = proposals.GENERATORS,
    ) -> None:
        """Try what the generators propose; what is found lies in the bench."""
        # First of all: rows that cannot be judged, or a model that does not run, end it here.
        doubt = self._bench.before().doubt("the float model")
        if doubt:
            self._progress.say(f"note: {doubt}")
        # What needs no training comes first: it costs seconds, and says what is worth training.
        self._networks = len(facts.training.networks)
        untrained = replace(facts, training=Training())
        self._waves(untrained, generators)
        self._mend()
        self._waves(untrained, generators)
        if self._networks:
            self._waves(facts, generators)
            self._networks = 0
            self._mend()
            self._waves(facts, generators)
        self._contest(hardware)

    def _waves(self, facts: Facts, generators: Sequence[proposals.Generator]) -> None:
        tried: set[str] = set()
        while True:
            fresh = [
                candidate
                for candidate in proposals.propose(facts, self._known(tried), generators=generators)
                if candidate.key not in tried
            ]
            if not fresh:
                return
            tried |= {candidate.key for candidate in fresh}
            self._wave(fresh)

    def _known(self, tried: set[str]) -> list[Trial]:
        """The trials that are no news: a candidate whose package is gone is made once more."""
        return [
            trial
            for trial in self._bench.trials()
            if trial.key in tried or self._bench.known(trial.candidate) is not None
        ]

    def _wave(self, candidates: Sequence[Candidate]) -> None:
        fresh: list[Built] = []
        for candidate in candidates:
            if self._bench.known(candidate) is not None:
                continue
            if self._is_over():
                break
            made = self._bench.build(candidate)
            if isinstance(made, Built):
                fresh.append(made)
        if not fresh:
            return
        self._bench.time(fresh, seconds=self._goal.seconds)
        quicker = [each for each in fresh if each.trial.state == "made"]
        quicker.sort(key=lambda each: choice.cost(each.trial, self._goal.target))
        for built in quicker:
            if self._is_over():
                break
            self._bench.judge(built)
            self._offer()

    def _offer(self) -> None:
        """The best so far is always on the disk."""
        best = choice.best(self._bench.trials(), self._goal.target)
        if best is not None:
            self._offer_to(best)

    def _mend(self) -> None:
        """Give float back to the nodes that cost the accuracy, where that could still win."""
        baseline = self._bench.baseline(seconds=self._goal.seconds)
        trials = self._bench.trials()
        best = choice.best([baseline, *trials], self._goal.target) or baseline
        worth = [
            trial
            for trial in trials
            if trial.state == "inaccurate"
            and proposals.is_static(trial)
            and "exclude" not in trial.steps[-1]  # that is a set which was tried already
            and trial.key not in self._mended
            and trial.steps[-1].get("quantizer", "onnxruntime") == "onnxruntime"
            and choice.cost(trial, self._goal.target) < choice.cost(best, self._goal.target)
        ]
        worth.sort(key=lambda trial: choice.cost(trial, self._goal.target))
        for trial in worth[:1]:  # the others differ in their ranges alone
            # Each network that may be trained is judged alone, and in the precisions that won.
            kept = self._networks * (1 + networks.WINNERS)
            left = self._goal.evaluations - self._bench.evaluations - kept
            if left <= 0 or self._is_over():
                return
            self._mended.add(trial.key)
            self._progress.say(
                f"{trial.name} is {trial.speeds[0].speed_up:.1f} times as fast and loses too much: "
                "looking for the nodes to leave in float"
            )
            mending.mend(
                self._bench,
                trial,
                limit=left,
                is_over=self._is_over,
                progress=self._progress,
                found=lambda _: self._offer(),
            )
            self._is_over()  # to say so, where it ended there

    def _contest(self, hardware: Hardware) -> None:
        """Time the finalists and the float model with other numbers of threads, all in turn.

        Accuracy does not depend on them, so this comes last and for a few alone.
        """
        counts = contest.counts(hardware.physical_cores)
        baseline = self._bench.baseline(seconds=self._goal.seconds)
        passed = [
            trial
            for trial in self._bench.trials()
            if trial.state == "passed" and choice.wins(trial, self._goal.target)
        ]
        passed.sort(key=lambda trial: choice.cost(trial, self._goal.target))
        finalists = [baseline, *passed[:FINALISTS]]
        tuned = all(trial.threads for trial in finalists)
        if not passed or len(counts) < 2 or tuned or self._goal.target == "size" or self._is_late():
            return
        packages = [self._bench.package(trial) for trial in finalists]
        entries = [
            contest.Entry(trial, package)
            for trial, package in zip(finalists, packages, strict=True)
            if package is not None
        ]
        for trial in self._bench.trials():
            if trial.tuned:  # of a contest before this one, when the machine was in another mood
                self._bench.keep(msgspec.structs.replace(trial, tuned=(), threads=0, instances=1))
        for trial in contest.run(
            entries,
            counts=counts,
            cores=hardware.physical_cores,
            target=self._goal.target,
            batch_sizes=self._goal.gate.batch_sizes,
            seconds=self._goal.seconds,
            progress=self._progress,
        ):
            self._bench.keep(trial)

    def _is_late(self) -> bool:
        budget = self._goal.budget_s
        if budget is not None and time.monotonic() - self._began > budget:
            self.stopped = f"the budget of {budget:g} s was used up"
            return True
        return False

    def _is_over(self) -> bool:
        if self._is_late():
            return True
        if self._bench.evaluations >= self._goal.evaluations:
            self.stopped = f"{self._goal.evaluations} evaluations of accuracy were made"
            return True
        return False
