"""The optimizer, and its learning rate at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlserve_cli.errors import MlserveError
from mlserve_cli.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch


def optimizer(module: torch.nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, or AdamW, over all parameters that are not frozen."""
    import torch

    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise MlserveError("the network has no parameter to train.")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        # Biases and norms: decay would only move what normalization undoes.
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.peak)
    return torch.optim.SGD(
        groups, lr=options.peak, momentum=options.momentum, nesterov=options.momentum > 0
    )


def cosine(total: int, warmup: float) -> Callable[[int], float]:
    """Linear warm-up, then half a cosine down to nothing (Loshchilov and Hutter, 2017).

    A function of the step alone: a training that is resumed needs nothing but its number.
    """
    rise = max(1, round(total * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, total - rise))))

    return factor


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
