"""Where and in what training computes: the device, bf16 autocast where it pays, memory layout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from mlserve_cli.runtime import hardware

if TYPE_CHECKING:
    import torch

    from mlserve_cli.training.inputs import Batch

TILES = "amx_bf16"
"""The instruction set in which training in bf16 pays for any network."""

VECTORS = "avx512_bf16"
"""The one in which it pays for sure only for products of matrices: an encoder's step took 0.57 of
its time in float32 on 2 cores without AMX. Convolutions took 0.7 of theirs undisturbed, but beside
other work half of the steps of a wide network took fifteen times as long as in float32."""

CONVOLVED = 0.1
"""A share of the weights: the one convolution that cuts a picture into patches costs no time."""


def device() -> str:
    """A GPU that torch can use, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose(wanted: str, device: str, module: torch.nn.Module) -> str:
    """`wanted`, where "auto" is bf16 where that pays for this network on this device, else fp32.

    It follows from the two alone, never from a timing: a training that is resumed, or a recipe that
    is replayed, must come to the same.
    """
    import torch

    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    isa = hardware.detect().isa
    pays = TILES in isa or (VECTORS in isa and _convolved(module) < CONVOLVED)
    return "bf16" if pays else "fp32"


def _convolved(module: torch.nn.Module) -> float:
    """The share of convolutions in the weights that are multiplied with: not those looked up."""
    import torch

    convolved = all_weights = 0
    for part in module.modules():
        count = sum(each.numel() for each in part.parameters(recurse=False) if each.ndim > 1)
        if not isinstance(part, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            all_weights += count
        if isinstance(part, torch.nn.modules.conv._ConvNd):
            convolved += count
    return convolved / max(all_weights, 1)


def autocast(kind: str, device: str) -> AbstractContextManager[Any]:
    """A context in which matrix products and convolutions run in `kind`."""
    import torch

    return torch.autocast(device, dtype=torch.bfloat16, enabled=kind == "bf16")


def arrange(module: torch.nn.Module) -> None:
    """Weights of pictures in channels_last; those of volumes, which know no such layout, stay."""
    import torch

    tensors = (*module.parameters(), *module.buffers())
    if not any(tensor.ndim == 5 for tensor in tensors):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def place(inputs: tuple[torch.Tensor, ...], device: str) -> tuple[torch.Tensor, ...]:
    """Inputs on the device; pictures (batch, channels, height, width) in channels_last."""
    import torch

    return tuple(
        tensor.to(
            device,
            memory_format=torch.channels_last if tensor.ndim == 4 else torch.preserve_format,
            non_blocking=True,
        )
        for tensor in inputs
    )


def move(value: Any, device: str) -> Any:
    """Targets of any form on the device."""
    return _each(value, lambda tensor: tensor.to(device, non_blocking=True))


def ready(batch: Batch, device: str) -> Batch:
    """A batch as the device takes it fastest: in its layout, and for a GPU in pinned memory."""
    inputs, targets = batch
    inputs = place(inputs, "cpu")
    if device != "cuda":
        return inputs, targets
    pinned: Batch = _each((inputs, targets), lambda tensor: tensor.pin_memory())
    return pinned


def _each(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, dict):
        return {name: _each(item, change) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_each(item, change) for item in value)
    return change(value)
