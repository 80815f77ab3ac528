"""The pruning history: what each pruning changed of a network, so that it can be built again.

Torch-Pruning makes tensors smaller and corrects the plain attributes that speak of them
(`out_channels`, `num_features`, `groups` …). The history keeps those attributes alone: which
channels went is in the weights. Whole blocks may go as well ("drop"); or something that hands its
input on takes their place, named with the length of the tuple that the block answered (0: one
tensor). Attention may become narrower than its class can express. An entry is JSON:

    {"ratio": 0.5, "layers": {"stem.conv": {"out_channels": 24}, …}}
    {"drop": ["encoder.layer.1", "encoder.layer.2"], "layers": {}}
    {"ratio": 0.5, "layers": {…}, "skipped": {"blocks.2": 0}, "narrow": ["layers.0.self_attn"]}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Sizes = dict[str, dict[str, Any]]
"""Name of a layer → its plain attributes that are whole numbers, or tuples of them."""


def sizes(module: torch.nn.Module) -> Sizes:
    """The sizes that every layer of a network states of itself."""
    return {
        name: {key: value for key, value in vars(layer).items() if _is_size(value)}
        for name, layer in module.named_modules()
    }


def changes(before: Sizes, after: Sizes) -> Sizes:
    """What differs, layer by layer."""
    found = {
        name: {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in layer.items()
            if before.get(name, {}).get(key) != value
        }
        for name, layer in after.items()
    }
    return {name: layer for name, layer in found.items() if layer}


def replay(
    module: torch.nn.Module, history: list[dict[str, Any]], state: dict[str, torch.Tensor]
) -> None:
    """Make a fresh network as small as the history left it, with room for the weights of `state`.

    Layers that the network does not have are left to `load_state_dict`, which names them.
    """
    if not history:
        return
    for entry in history:
        drop(module, entry.get("drop", ()))
        there = dict(module.named_modules())
        for name, returns in entry.get("skipped", {}).items():
            if name in there:
                skip(module, name, returns)
        for name in entry.get("narrow", ()):
            if name in there:
                narrow(module, name)
        layers = dict(module.named_modules())
        for name, attributes in entry.get("layers", {}).items():
            for key, value in attributes.items():
                if name in layers:
                    setattr(layers[name], key, tuple(value) if isinstance(value, list) else value)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name in state and tensor.shape != state[name].shape:
            tensor.data = tensor.data.new_zeros(state[name].shape)


def drop(module: torch.nn.Module, paths: Sequence[str]) -> None:
    """Take out the modules at `paths`, which are named as they were before any of them went.

    Those behind them in a list or a sequence move up; anywhere else nn.Identity takes the place.
    Paths that the network does not have are left to `load_state_dict`.
    """
    import torch

    there = dict(module.named_modules())
    # From the end: a place of a list that went renames only those behind it.
    for path in sorted((p for p in paths if p in there), key=_place, reverse=True):
        folder, _, name = path.rpartition(".")
        parent = there[folder]
        if isinstance(parent, (torch.nn.ModuleList, torch.nn.Sequential)):
            del parent[int(name)]
        else:
            setattr(parent, name, torch.nn.Identity())


def _place(path: str) -> tuple[str, int]:
    folder, _, name = path.rpartition(".")
    return folder, int(name) if name.isdigit() else 0


def skip(module: torch.nn.Module, name: str, returns: int) -> None:
    """Put in place of a whole block what hands its input on."""
    from mlserve_cli.training.stand_ins import Passed

    module.set_submodule(name, Passed(returns))


def narrow(module: torch.nn.Module, name: str) -> None:
    """Make an `nn.MultiheadAttention` one whose heads may become fewer."""
    import torch

    from mlserve_cli.training.stand_ins import NarrowAttention

    whole = module.get_submodule(name)
    if not isinstance(whole, torch.nn.MultiheadAttention):
        return  # it is narrow already
    module.set_submodule(name, NarrowAttention(whole))
    for layer in module.modules():
        if isinstance(layer, torch.nn.TransformerEncoder):
            # Padded batches would be packed into nested tensors, which only the whole class takes.
            layer.use_nested_tensor = False


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(_is_size(item) for item in value)
    return isinstance(value, int) and not isinstance(value, bool)
