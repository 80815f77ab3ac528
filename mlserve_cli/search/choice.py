"""Which of the trials is the result, and which of them nobody could do better than."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlserve_cli.search.trial import Speed, Trial

Target = Literal["latency", "throughput", "size"]


def cost(trial: Trial, target: Target) -> float:
    """What is to be made small; infinite where it was not measured."""
    if target == "size":
        return float(trial.size_bytes or float("inf"))
    if target == "latency":
        return trial.latency_ms if trial.latency_ms is not None else float("inf")
    best = trial.rows_per_s
    return 1 / best if best else float("inf")


MARGIN = 1.02
"""Less than 2 % is where the memory of two loads happens to lie: nothing to change a model for."""

SIZE_MARGIN = 1.01
"""Nobody gives accuracy for a hundredth of the bytes."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The trial that was chosen; among: those that cost the same within noise, it among them."""

    trial: Trial
    among: tuple[Trial, ...]

    def reason(self, target: Target) -> str:
        """Why not the one that costs least of all; empty where it is that one."""
        cheapest = min(self.among, key=lambda each: cost(each, target))
        if cheapest.key == self.trial.key:
            return ""
        same = "as small" if target == "size" else "as fast"
        start = f"{self.trial.name} and {cheapest.name} are {same} within noise, and {{}}"
        mine, other = self.trial.accuracy, cheapest.accuracy
        if mine is not None and other is not None and mine.drop < other.drop:
            less = f"{other.drop - mine.drop:.2g} {mine.unit}".strip()
            return start.format(f"{self.trial.name} loses {less} less")
        if self.trial.size_bytes < cheapest.size_bytes:
            return start.format(f"{self.trial.name} is smaller")
        return start.format(f"{self.trial.name} needs fewer steps")


def choose(trials: Iterable[Trial], target: Target) -> Choice | None:
    """The best of those that passed and beat the float model beyond noise, or that itself.

    Of those that cost the same within noise the most accurate, then the smallest, then the one of
    the fewest steps. So no other trial has less of one of cost, loss and bytes without more of
    another.
    """
    passed = [each for each in trials if each.state == "passed" and wins(each, target)]
    return among(passed, target) if passed else None


def among(trials: Sequence[Trial], target: Target) -> Choice:
    """The best of these, whatever they are, by the same rules; there is at least one."""
    cheapest = min(trials, key=lambda each: cost(each, target))
    limit = _same_up_to(cheapest, target)
    # The float model is no equal of what beats it: it would win by its accuracy each time.
    near = [
        each
        for each in trials
        if cost(each, target) <= limit and (each.steps or not cheapest.steps)
    ]
    chosen = min(
        near,
        key=lambda each: (_drop(each), each.size_bytes, cost(each, target), len(each.steps)),
    )
    return Choice(chosen, tuple(near))


def best(trials: Iterable[Trial], target: Target) -> Trial | None:
    """The trial that `choose` takes."""
    found = choose(trials, target)
    return found.trial if found is not None else None


def wins(trial: Trial, target: Target) -> bool:
    """Whether a trial is better than the float model beyond noise, or is the float model itself."""
    if not trial.steps or target == "size":
        return True
    speed = speed_for(trial, target)
    return speed is not None and speed.speed_up_low > 1 and speed.speed_up > MARGIN


def speed_for(trial: Trial, target: Target) -> Speed | None:
    """The measurement that counts: the smallest batch's, or the one with the most rows a second."""
    if not trial.figures:
        return None
    if target == "throughput":
        return max(trial.figures, key=lambda each: each.rows_per_s)
    return min(trial.figures, key=lambda each: each.batch)


def front(trials: Sequence[Trial], target: Target) -> list[Trial]:
    """Those that no other beats in both cost and accuracy (Pareto's front), cheapest first.

    Only those whose accuracy was measured can stand there.
    """
    measured = sorted(
        (trial for trial in trials if trial.accuracy is not None and trial.state != "failed"),
        key=lambda trial: (cost(trial, target), _drop(trial)),
    )
    found: list[Trial] = []
    for trial in measured:
        if not found or _drop(trial) < _drop(found[-1]):
            found.append(trial)
    return found


def _same_up_to(trial: Trial, target: Target) -> float:
    """The cost up to which another is the same as this one's, but for noise."""
    if target == "size":
        return cost(trial, target) * SIZE_MARGIN
    speed = speed_for(trial, target)
    # How far its interval goes beyond its median, in the run that it was measured in.
    noise = speed.p50_high_ms / speed.p50_ms if speed is not None and speed.p50_ms else 1.0
    return cost(trial, target) * min(max(MARGIN, noise), NOISE)


NOISE = 1.1
"""A machine so busy that a median is known to no more than a tenth does not choose at all."""


def _drop(trial: Trial) -> float:
    return trial.accuracy.drop if trial.accuracy is not None else float("inf")
