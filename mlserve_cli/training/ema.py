"""The exponential moving average of the weights: less noise than the last step's alone.

Polyak and Juditsky, 1992; as an exponential average in Tarvainen and Valpola, 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Average:
    """decay · average + (1 − decay) · weights, after every step; statistics of norms as well.

    In the beginning the decay is (1 + step) / (10 + step) where that is smaller, so that a short
    training is not held back by the weights that it began with.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = snapshot(module)

    def update(self, module: torch.nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, share)
            else:
                self.weights[name].copy_(tensor)

    def restore(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Go on from another average."""
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the state dict, in the memory layout of its tensors."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
