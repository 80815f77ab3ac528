"""Rounding to 8 bits that gradients pass through, as the writer will place the levels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlserve_cli.quantize.calibration.grid import LEVELS

if TYPE_CHECKING:
    import torch


def nearest(values: torch.Tensor) -> torch.Tensor:
    """Rounded to whole numbers; the gradient is that of the values themselves."""
    return values + (values.round() - values).detach()


def weight(values: torch.Tensor, axis: int, *, reduce_range: bool = False) -> torch.Tensor:
    """A weight on its levels, symmetric, one scale an output channel: as `weights.rounded`."""
    import torch

    levels = 64 if reduce_range else 127
    others = tuple(each for each in range(values.ndim) if each != axis % values.ndim)
    largest = values.detach().abs().amax(others, keepdim=True)
    scale = largest / levels
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # of the smallest it may be none
    return nearest(values / scale).clamp(-levels, levels) * scale


def activation(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """A tensor on the 256 levels from `low` to `high`, as `Grid`; both ends learn as well.

    What lies beyond an end moves that end, what lies between moves the steps (Esser et al.,
    "Learned step size quantization", 2020; with a zero point: Bhalgat et al., 2020). Their
    gradients are sums over all values, and are scaled down by the root of their number.
    """
    share = math.sqrt((LEVELS - 1) / max(1, values[0].numel()))
    low, high = _slowed(low, share).clamp(max=0), _slowed(high, share).clamp(min=0)
    scale = ((high - low) / (LEVELS - 1)).clamp(min=1e-12)
    zero = nearest(-low / scale)
    return (nearest(values / scale + zero).clamp(0, LEVELS - 1) - zero) * scale


def _slowed(value: torch.Tensor, share: float) -> torch.Tensor:
    """The value itself, with a share of its gradient."""
    return value * share + (value * (1 - share)).detach()
