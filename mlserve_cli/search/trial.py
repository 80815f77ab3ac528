"""What is known of one candidate: from "planned" to a figure for everything that was measured."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mlserve_cli.search.candidate import Candidate, StepChoice

State = Literal["made", "failed", "slower", "inaccurate", "passed"]
"""made: nobody looked at its accuracy yet. failed: it could not be made or run. slower: than the
float model, beyond noise, so its accuracy was not looked at. inaccurate: it loses more than is
allowed. passed: it could be the result."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """At one batch size: milliseconds with their 95 % interval, rows a second, times as fast.

    speed_up, its low and high: against the float model in the same interleaved run.
    """

    batch: int
    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    rows_per_s: float
    speed_up: float = 1.0
    speed_up_low: float = 1.0
    speed_up_high: float = 1.0


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """The metric, and what was lost of it against the float model, in the metric's unit."""

    metric: str
    unit: str
    value: float
    low: float
    high: float
    n: int
    drop: float = 0.0
    drop_low: float = 0.0
    drop_high: float = 0.0
    proof: str = ""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate. steps: as a recipe writes them. seconds: that finding out took.

    speeds: on all cores. engine: that runs it. tuned: with the threads, and as many instances side
    by side, that it was fastest with, against the float model with its own best; () where nobody
    tried. training_s: of `seconds`, those of training.
    """

    key: str
    name: str
    steps: tuple[dict[str, Any], ...]
    state: State
    reason: str = ""
    why: str = ""
    digest: str = ""
    variant: str = ""
    size_bytes: int = 0
    invariant: bool = True
    speeds: tuple[Speed, ...] = ()
    accuracy: Accuracy | None = None
    engine: str = "onnxruntime"
    tuned: tuple[Speed, ...] = ()
    threads: int = 0
    instances: int = 1
    seconds: float = 0.0
    training_s: float = 0.0

    @property
    def candidate(self) -> Candidate:
        """What it is the trial of."""
        steps = tuple(StepChoice.of(each) for each in self.steps)
        return Candidate(name=self.name, steps=steps, why=self.why)

    @property
    def figures(self) -> tuple[Speed, ...]:
        """What counts: its speeds as it is run best, as far as that is known."""
        return self.tuned or self.speeds

    @property
    def latency_ms(self) -> float | None:
        """Of the smallest batch that was measured; None before that."""
        return min(self.figures, key=lambda speed: speed.batch).p50_ms if self.figures else None

    @property
    def rows_per_s(self) -> float | None:
        """The best over the batch sizes that were measured."""
        return max((speed.rows_per_s for speed in self.figures), default=None)
