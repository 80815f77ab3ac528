"""The best weights so far, and when waiting for better ones is no use."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Best:
    """The weights of the best epoch: by the validation metric, else by the mean training loss.

    patience: how many epochs in a row may be no better; None waits to the end.
    """

    def __init__(self, *, higher_is_better: bool, patience: int | None = None) -> None:
        self.higher_is_better = higher_is_better
        self.patience = patience
        self.value: float | None = None
        self.epoch = 0  # counted from 1; 0: there is none yet
        self.weights: dict[str, torch.Tensor] | None = None

    def take(self, value: float, epoch: int, weights: dict[str, torch.Tensor]) -> None:
        """Look at the weights after `epoch`, counted from 1; they are kept if they are better."""
        if math.isnan(value):
            return
        better = self.value is None or (
            value > self.value if self.higher_is_better else value < self.value
        )
        if better:
            self.value, self.epoch = value, epoch
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}

    def gave_up(self, epoch: int) -> bool:
        """Whether patience is at its end after `epoch`."""
        return self.patience is not None and epoch - self.epoch >= self.patience
