"""Which of the trials is the result, and which of them nobody could do better than."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from mlserve_cli.search.trial import Trial

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


def best(trials: Iterable[Trial], target: Target) -> Trial | None:
    """The one that passed and costs least; of two that cost the same, the smaller drop.

    Only those that beat the float model beyond noise count beside it.
    """
    passed = [each for each in trials if each.state == "passed" and wins(each, target)]
    return min(passed, key=lambda each: (cost(each, target), _drop(each)), default=None)


def wins(trial: Trial, target: Target) -> bool:
    """Whether a trial is better than the float model beyond noise, or is the float model itself."""
    if not trial.steps or target == "size":
        return True
    if not trial.speeds:
        return False
    if target == "latency":
        speed = min(trial.speeds, key=lambda each: each.batch)
    else:
        speed = max(trial.speeds, key=lambda each: each.rows_per_s)
    return speed.speed_up_low > 1 and speed.speed_up > MARGIN


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


def _drop(trial: Trial) -> float:
    return trial.accuracy.drop if trial.accuracy is not None else float("inf")
