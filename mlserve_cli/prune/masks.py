"""Channels set to nothing instead of taken out: what a pruned network must answer like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-3
"""Relative; the sums are the same but for their order. A wrong channel is off by far more."""


def blank(graph: Any, group: Any, traced: torch.nn.Module, masked: torch.nn.Module) -> bool:
    """Set the channels of `group`, found in `traced`, to nothing in `masked`, its equal.

    Both what makes a channel and what reads it: an activation may turn nothing into something.
    Returns whether the two networks can be compared then: a norm over channels reads them all.
    """
    import torch

    names = {layer: name for name, layer in traced.named_modules()}
    comparable = True
    for dep, channels in group:
        if dep.target.module not in names:
            continue  # an operation without weights, or a bare parameter
        layer = masked.get_submodule(names[dep.target.module])
        if isinstance(layer, (torch.nn.LayerNorm, torch.nn.GroupNorm)):
            comparable = False
        makes = not graph.is_in_channel_pruning_fn(dep.handler)
        _blank(layer, list(channels), makes=makes)
    return comparable


def _blank(layer: torch.nn.Module, channels: list[int], *, makes: bool) -> None:
    import torch

    weight = getattr(layer, "weight", None)
    bias = getattr(layer, "bias", None)
    if not isinstance(weight, torch.Tensor):
        return
    transposed = getattr(layer, "transposed", False)
    with torch.no_grad():
        if makes or weight.ndim < 2:
            if isinstance(bias, torch.Tensor):
                bias[channels] = 0
            weight.transpose(0, 1 if transposed else 0)[channels] = 0
        elif getattr(layer, "groups", 1) == 1:
            weight.transpose(0, 0 if transposed else 1)[channels] = 0


def alike(expected: list[torch.Tensor], found: list[torch.Tensor]) -> bool:
    """Whether the answers are the same but for the order of sums."""
    return all(
        float((left - right).abs().max()) <= TOLERANCE * max(float(left.abs().max()), 1e-6)
        for left, right in zip(expected, found, strict=True)
        if left.is_floating_point() and left.numel()
    )
