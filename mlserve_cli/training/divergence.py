"""The losses of an epoch, and the moment from which they do not come back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlserve_cli.errors import StepError

if TYPE_CHECKING:
    import torch

BLOWN_UP = 10.0
"""A loss this many times the first one (plus one) does not come back: clipping hides the NaN."""

CUDA_STEPS = 16
"""Reading a loss waits for the GPU; one wait in so many steps keeps it busy."""


class Diverged(StepError):
    """The loss is no number any more, or far above what it began with."""


class Losses:
    """The loss of every step of the epoch so far."""

    def __init__(self, *, every: int = 1) -> None:
        self.values: list[float] = []
        self.first: float | None = None
        self._every = every
        self._unread: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor) -> None:
        """Take the loss of a step. Raises `Diverged` once that can be seen."""
        self._unread.append(loss.detach())
        if len(self._unread) >= self._every:
            self.read()

    def read(self) -> None:
        """Look at all losses so far. Raises `Diverged`."""
        unread, self._unread = self._unread, []
        for tensor in unread:
            value = float(tensor)
            self.values.append(value)
            self.first = value if self.first is None else self.first
            if not math.isfinite(value) or value > BLOWN_UP * (abs(self.first) + 1):
                raise Diverged(f"the loss is {value:.3g} at step {len(self.values)}")

    @property
    def note(self) -> str:
        """The last loss that was read, for the progress."""
        return f"loss {self.values[-1]:.3f}" if self.values else ""

    def mean(self) -> float:
        """The mean over the epoch, which ends with it."""
        self.read()
        values, self.values = self.values, []
        return sum(values) / max(len(values), 1)
