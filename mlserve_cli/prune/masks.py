"""Channels set to nothing instead of taken out: what a pruned network must answer like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-3
"""Relative; the sums are the same but for their order. A wrong channel is off by far more."""


def blank(graph: Any, group: Any, traced: torch.nn.Module, masked: torch.nn.Module) -> None:
    """Set the channels of `group`, found in `traced`, to nothing in `masked`, its equal.

    Both what makes a channel and what reads it: an activation may turn nothing into something.
    """
    names = {layer: name for name, layer in traced.named_modules()}
    for dep, channels in group:
        if dep.target.module not in names:
            continue  # an operation without weights, or a bare parameter
        layer = masked.get_submodule(names[dep.target.module])
        makes = not graph.is_in_channel_pruning_fn(dep.handler)
        _blank(layer, list(channels), makes=makes)


def _blank(layer: torch.nn.Module, channels: list[int], *, makes: bool) -> None:
    import torch

    if isinstance(layer, (torch.nn.LayerNorm, torch.nn.GroupNorm)):
        _leave_out(layer, channels)
        return
    weight = getattr(layer, "weight", None)
    bias = getattr(layer, "bias", None)
    if not isinstance(weight, torch.Tensor):
        return
    transposed = getattr(layer, "transposed", False)
    with torch.no_grad():
        if isinstance(layer, torch.nn.Embedding):
            weight[:, channels] = 0
        elif makes or weight.ndim < 2:
            if isinstance(bias, torch.Tensor):
                bias[channels] = 0
            weight.transpose(0, 1 if transposed else 0)[channels] = 0
        elif getattr(layer, "groups", 1) == 1:
            weight.transpose(0, 0 if transposed else 1)[channels] = 0


def _leave_out(layer: torch.nn.Module, channels: list[int]) -> None:
    """A norm over channels takes its mean and its spread over those that stay, and no others."""
    gone: set[int] | None = vars(layer).get("_gone")
    if gone is None:
        gone = set()
        vars(layer)["_gone"] = gone
        whole = layer.forward
        vars(layer)["forward"] = lambda x: _norm(layer, gone, x) if gone else whole(x)
    gone.update(channels)


def _norm(layer: Any, gone: set[int], x: torch.Tensor) -> torch.Tensor:
    import torch
    import torch.nn.functional as F  # noqa: N812  (its usual name)

    last = isinstance(layer, torch.nn.LayerNorm)
    size = layer.normalized_shape[-1] if last else layer.num_channels
    stay = [channel for channel in range(size) if channel not in gone]
    weight = None if layer.weight is None else layer.weight[stay]
    bias = None if layer.bias is None else layer.bias[stay]
    answer = torch.zeros_like(x)
    if last:
        answer[..., stay] = F.layer_norm(x[..., stay], (len(stay),), weight, bias, layer.eps)
    else:
        answer[:, stay] = F.group_norm(x[:, stay], layer.num_groups, weight, bias, layer.eps)
    return answer


def alike(expected: list[torch.Tensor], found: list[torch.Tensor]) -> bool:
    """Whether the answers have the same shapes, and are the same but for the order of sums."""
    if [each.shape for each in found] != [each.shape for each in expected]:
        return False
    return all(
        float((left - right).abs().max()) <= TOLERANCE * max(float(left.abs().max()), 1e-6)
        for left, right in zip(expected, found, strict=True)
        if left.is_floating_point() and left.numel()
    )
