"""How big a network is: its parameters, and the multiplications that one row costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Size:
    """parameters: tied ones once. macs: multiply-accumulates of a row, in products alone."""

    parameters: int
    macs: int


def measure(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Size:
    """Count with the first row of `inputs`; matrix products, convolutions and attention count."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    training = module.training
    module.eval()
    # Torch's fused encoder layer is one operation, which the counter knows nothing of.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(*(tensor[:1] for tensor in inputs))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        module.train(training)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Size(parameters, counter.get_total_flops() // 2)
