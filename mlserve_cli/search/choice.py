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


def best(trials: Iterable[Trial], target: Target) -> Trial | None:
    """The one that passed and costs least; of two that cost the same, the smaller drop."""
    passed = [trial for trial in trials if trial.state == "passed"]
    return min(passed, key=lambda each: (cost(each, target), _drop(each)), default=None)


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
