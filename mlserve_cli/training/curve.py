"""What a training did, epoch by epoch: the learning curve, for the evidence and the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from mlserve_cli.package.definition import Metric

STILL_FALLING = 0.1
"""A cosine ends flat: a loss that still falls by more than a tenth had further to go."""

FEW_STEPS = 100
"""A tenth of them is the warm-up; what is left moves no network far."""


class Epoch(msgspec.Struct, frozen=True):
    """One epoch: the mean training loss, the validation metric, the learning rate at its end.

    validation: in the metric's unit; None without rows for it.
    """

    loss: float
    learning_rate: float
    validation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a training did, and which weights it ended with.

    kept: the epoch whose weights were kept, counted from 1. stopped: why it ended before its last
    epoch, a sentence; "" where it did not. diverged: whether that was a loss that diverged.
    resumed: at how many steps it was taken up again.
    """

    epochs: tuple[Epoch, ...]
    steps: int
    seconds: float
    precision: str
    seed: int = 0
    kept: int = 0
    stopped: str = ""
    diverged: bool = False
    metric: Metric | None = None
    title: str = "training"
    resumed: tuple[int, ...] = ()

    @property
    def losses(self) -> tuple[float, ...]:
        """The mean loss of each epoch."""
        return tuple(epoch.loss for epoch in self.epochs)

    def facts(self) -> dict[str, Any]:
        """As evidence."""
        facts = {
            "kind": "training",
            "title": self.title,
            "summary": self.sentence(),
            "advice": self.advice(),
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "precision": self.precision,
            "seed": self.seed,
            "kept_epoch": self.kept,
            "resumed_at_steps": list(self.resumed),
            "curve": [msgspec.to_builtins(epoch) for epoch in self.epochs],
        }
        if self.metric:
            facts["metric"] = msgspec.to_builtins(self.metric)
        return facts

    def advice(self) -> str:
        """What the curve says of a longer training; "" where it says nothing."""
        if self.stopped or not self.epochs:
            return ""
        if len(self.epochs) > 1:
            before, last = self.losses[-2:]
            fell = (before - last) / max(abs(before), 1e-12)
            if fell > STILL_FALLING:
                return (
                    f"the loss still fell by {fell:.0%} in the last epoch: more --epochs would "
                    "teach it more"
                )
        if self.steps < FEW_STEPS:
            return f"{self.steps} steps are few: more --epochs, or more rows, would teach it more"
        return ""

    def lineage(self) -> dict[str, Any]:
        """What the manifest says of it beside the options: what "auto" precision came to, and an
        end before the last epoch."""
        facts: dict[str, Any] = {"precision": self.precision}
        if self.stopped:
            facts["kept_epoch"] = self.kept
        if self.diverged:
            facts["diverged"] = self.stopped
        return facts

    def sentence(self) -> str:
        """How it went, in a line."""
        count = len(self.epochs)
        text = f"{count} epoch{'s' * (count != 1)}, {self.steps:,} steps in {self.precision}"
        if self.epochs:
            ends = [self.epochs[0].loss, self.epochs[-1].loss][: 1 + (count > 1)]
            text += f": loss {' → '.join(f'{loss:.3f}' for loss in ends)}"
        return text + (f"; {self.stopped}" if self.stopped else "")
