"""A state dict on disk → the network of a definition, without running anything in the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import DefinitionError, first_line, needs_extra

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which training scripts keep the weights, beside the optimizer's state."""


def load(module: torch.nn.Module, file: Path) -> None:
    """Load the weights of `file` into `module`, all of them and no others.

    `.safetensors` holds nothing but tensors; `.pt` and `.pth` are read as PyTorch reads untrusted
    files (`weights_only`). Raises `DefinitionError` naming the keys that are missing or unknown.
    """
    state = _read(file)
    if state and all(key.startswith("module.") for key in state):  # DataParallel's
        state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # another shape
        wrong = " ".join(str(error).split()).partition(": ")[2] or str(error)
        raise DefinitionError(
            f"the weights in '{file}' do not fit {type(module).__name__}: {wrong[:300]}",
            hint="build the network with the sizes that it was trained with",
        ) from error
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:5])}{' …' if len(keys) > 5 else ''})"
        for keys, what in ((missing, "are missing"), (unexpected, "are of no use"))
        if keys
    ]
    if parts:
        raise DefinitionError(
            f"the weights in '{file}' do not fit {type(module).__name__}: "
            + "; ".join(parts)
            + ".",
            hint="model() or architecture() must build the very network that was trained",
        )


def _read(file: Path) -> dict[str, Any]:
    with needs_extra("torch", "read weights"):
        import torch
        from safetensors.torch import load_file
    if not file.is_file():
        raise DefinitionError(f"the weights '{file}' do not exist.")
    if file.suffix not in SUFFIXES:
        raise DefinitionError(
            f"the weights '{file}' are {file.suffix or 'of no suffix'}.",
            hint=f"they can be {', '.join(SUFFIXES)}",
        )
    try:
        if file.suffix == ".safetensors":
            found: Any = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # SafetensorError, UnpicklingError, RuntimeError of a damaged zip
        unsafe = "weights_only" in str(error) or "Unsupported" in str(error)
        raise DefinitionError(
            f"the weights '{file}' "
            + (
                "hold more than tensors, and loading them could run any code."
                if unsafe
                else f"cannot be read: {first_line(error)}."
            ),
            hint="save the state dict alone: "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
        ) from error
    for name in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not all(
        isinstance(value, torch.Tensor) for value in found.values()
    ):
        raise DefinitionError(
            f"'{file}' holds no state dict.",
            hint="torch.save(model.state_dict(), FILE) writes one",
        )
    return found
