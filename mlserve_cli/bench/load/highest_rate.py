"""The highest rate at which a server keeps an objective, by search.

A closed loop finds about what the server can answer; from there open loops with Poisson arrivals
close in on the highest rate whose percentile holds by LoadGen's bound (`early_stopping`), and that
rate is then confirmed by a longer run with other arrival times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mlserve_cli.bench.load import early_stopping
from mlserve_cli.bench.load.run import ClosedLoop, Load, OpenLoop, Run
from mlserve_cli.package.progress import Progress, Silent

PRECISION = 0.05
"""The search ends when the lowest rate that failed is this much above the highest that held."""

_USERS = 32  # enough to keep a batching server busy
_TRIALS = 16
_LONGEST = 4.0  # times `seconds`, for a low rate that needs more queries to prove anything
_HALVINGS = 8
_FALLS = 10  # the last is below a hundredth of the first
_OVER = 5  # a trial is long enough for so many to be over, or chance would decide

Verdict = Literal["met", "missed", "unproven"]


@dataclass(frozen=True, slots=True)
class Objective:
    """So many percent of all requests are answered with success within `latency_ms`."""

    latency_ms: float
    percentile: float = 99.0

    @property
    def sentence(self) -> str:
        """For a person."""
        return f"p{self.percentile:g} within {self.latency_ms:g} ms"


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate that was tried."""

    rate: float
    verdict: Verdict
    run: Run

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "rate_per_s": self.rate,
            "verdict": self.verdict,
            "sent": self.run.sent,
            "over": self.run.over,
            "goodput": self.run.goodput(self.run.objective_ms or 0.0),
            "p99_ms": self.run.facts()["latency"]["p99_ms"],
            "gave_up": self.run.gave_up,
        }


@dataclass(frozen=True, slots=True)
class Highest:
    """rate: the highest that was confirmed; None where none was. `run` is the confirming one."""

    objective: Objective
    rate: float | None
    run: Run | None
    trials: tuple[Trial, ...]
    capacity: Run | None

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "objective_ms": self.objective.latency_ms,
            "percentile": self.objective.percentile,
            "confidence": early_stopping.CONFIDENCE,
            "bound": "binomial, as LoadGen's early stopping",
            "rate_per_s": self.rate,
            "trials": [trial.facts() for trial in self.trials],
            "run": self.run.facts() if self.run else None,
        }


class Sends(Protocol):
    """A generator, as far as the search needs one."""

    def run(
        self,
        load: Load,
        *,
        seconds: float,
        timeout_s: float = ...,
        objective_ms: float | None = ...,
        give_up_over: int = ...,
    ) -> Run:
        """Send a load."""
        ...


def find(
    generator: Sends,
    objective: Objective,
    *,
    seconds: float = 5.0,
    timeout_s: float = 30.0,
    first_rate: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Highest:
    """Search. seconds: of each trial; longer where a low rate needs it to prove anything.

    first_rate: about what the server can answer; None measures it with a closed loop.
    """
    return _Search(generator, objective, seconds, timeout_s, seed, progress or Silent()).find(
        first_rate
    )


class _Search:
    def __init__(
        self,
        generator: Sends,
        objective: Objective,
        seconds: float,
        timeout_s: float,
        seed: int,
        progress: Progress,
    ) -> None:
        self._generator, self._objective = generator, objective
        self._seconds, self._timeout_s, self._seed = seconds, timeout_s, seed
        self._progress = progress
        self._trials: list[Trial] = []
        self._interrupted = False

    def find(self, first_rate: float | None) -> Highest:
        capacity = None
        if first_rate is None:
            self._progress.stage("what the server can answer at all", total=None)
            capacity = self._generator.run(
                ClosedLoop(_USERS), seconds=max(1.0, self._seconds / 2), timeout_s=self._timeout_s
            )
            first_rate = capacity.throughput
            self._interrupted = capacity.interrupted
        confirmed: Run | None = None
        rate: float | None = None
        if first_rate > 0 and not self._interrupted:
            self._progress.stage(f"the highest rate with {self._objective.sentence}", total=None)
            rate, confirmed = self._confirm(self._bracket(first_rate))
        return Highest(self._objective, rate, confirmed, tuple(self._trials), capacity)

    def _bracket(self, first_rate: float) -> float | None:
        """The highest rate that held; None where none did."""
        low, high = None, None
        rate = 0.75 * first_rate
        for _ in range(_TRIALS):
            if self._tried(rate, self._seconds) == "met":
                low = rate
            else:
                high = rate
            if self._interrupted or (low and high and high / low <= 1 + PRECISION):
                break
            if low and high:
                rate = math.sqrt(low * high)
            elif low:
                rate = 1.25 * low
            else:
                rate /= 2
                if rate < 0.75 * first_rate / 2**_HALVINGS:
                    break
        return low

    def _confirm(self, rate: float | None) -> tuple[float | None, Run | None]:
        """The first rate that holds again; each that does not makes the next step twice as large.

        Where the bracket was luck, as beside other work, small steps would not get down to what
        the server can do before the trials are used up.
        """
        for attempt in range(_FALLS):
            if rate is None or self._interrupted:
                break
            if self._tried(rate, 2 * self._seconds) == "met":
                return rate, self._trials[-1].run
            rate *= 1 - min(0.5, PRECISION * 2**attempt)
        return None, None

    def _tried(self, rate: float, seconds: float) -> Verdict:
        percentile = self._objective.percentile
        needed_s = early_stopping.least_total(percentile, _OVER) / rate
        seconds = min(max(seconds, needed_s), _LONGEST * self._seconds)
        runs = [self._sent(rate, seconds)]
        if judge(runs, self._objective) == "unproven" and not self._interrupted:
            runs.append(self._sent(rate, seconds))
        verdict = judge(runs, self._objective)
        self._trials.append(Trial(rate, verdict, runs[-1]))
        share = runs[-1].goodput(self._objective.latency_ms)
        self._progress.say(f"{rate:,.0f} a second: {share:.2%} in time, {verdict}")
        return verdict

    def _sent(self, rate: float, seconds: float) -> Run:
        allowed = early_stopping.most_over(round(3 * rate * seconds), self._objective.percentile)
        run = self._generator.run(
            OpenLoop(rate=rate, poisson=True, seed=self._seed),
            seconds=seconds,
            timeout_s=self._timeout_s,
            objective_ms=self._objective.latency_ms,
            give_up_over=max(10, allowed),
        )
        self._seed += 1  # other arrival times for whoever tries that rate again
        self._interrupted = run.interrupted
        return run


def judge(runs: Sequence[Run], objective: Objective) -> Verdict:
    """Of runs at one rate, together. met: proven. missed: too many were over. unproven: neither."""
    if any(run.gave_up for run in runs):
        return "missed"
    total = sum(run.answered + run.failures for run in runs)
    over = sum(run.over for run in runs)
    if early_stopping.holds(total, over, objective.percentile):
        return "met"
    return "unproven" if over <= total * (1 - objective.percentile / 100) else "missed"
