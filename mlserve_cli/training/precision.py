"""Where and in what training computes: the device, bf16 autocast where it pays, memory layout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from mlserve_cli.runtime import hardware

if TYPE_CHECKING:
    import torch

    from mlserve_cli.training.inputs import Batch

BF16 = frozenset({"amx_bf16"})
"""Instruction sets in which training in bf16 pays. AVX-512 BF16 is none of them: it multiplies at
most twice as fast as float32, which the conversions on the way cost, and more for wide layers."""


def device() -> str:
    """A GPU that torch can use, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose(wanted: str, device: str) -> str:
    """`wanted`, where "auto" is bf16 where that pays: AMX, or a GPU with bf16 in hardware.

    It follows from the device alone, never from a timing: a training that is resumed, or a recipe
    that is replayed, must come to the same.
    """
    import torch

    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if BF16.intersection(hardware.detect().isa) else "fp32"


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
