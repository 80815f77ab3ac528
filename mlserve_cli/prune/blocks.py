"""Whole blocks that can be skipped: residual blocks and encoder layers that keep a shape.

A block is a child of an `nn.Sequential` or `nn.ModuleList` that answers in the shape of its first
input, and goes on handing that input through when all that it computes is silenced: that is what
makes it residual. Those whose absence changes the network's answers least are dropped, one after
the other, measured each time on the network without those dropped before.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserve_cli.prune.tracing import answers, leaves
from mlserve_cli.training import history

if TYPE_CHECKING:
    import torch

HANDED_ON = 0.5
"""Correlation of input and answer of a silenced block. A sum with the input has 1, 0.7 and more
behind a ReLU or a norm; a chain of layers that is silenced answers one number everywhere."""


@dataclass(frozen=True, slots=True)
class Block:
    """returns: 0 where it answers one tensor, else the length of the tuple that it answers."""

    name: str
    returns: int


def find(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> list[Block]:
    """The blocks of a network that hand their input on."""
    import torch

    from mlserve_cli.training.stand_ins import Passed

    names = [
        f"{name}.{child}" if name else child
        for name, layer in module.named_modules()
        if isinstance(layer, (torch.nn.Sequential, torch.nn.ModuleList))
        for child, block in layer.named_children()
        if not isinstance(block, Passed) and any(True for _ in block.parameters())
    ]
    silenced = copy.deepcopy(module).eval()
    seen: dict[str, tuple[Any, Any]] = {}
    handles = []
    for name in names:

        def watch(layer: Any, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            given = args[0] if args else next(iter(kwargs.values()), None)
            seen[name] = (given, output)

        handles.append(module.get_submodule(name).register_forward_hook(watch, with_kwargs=True))
    try:
        answers(module, example)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for name in names:
        if name not in seen:
            continue
        given, output = seen[name]
        if not _same_form(given, output):
            continue
        _silence(silenced.get_submodule(name))
        found.append((name, len(output) if isinstance(output, tuple) else 0))
    # Silenced one at a time: each must be handed what it is handed in the whole network.
    return [
        Block(name, returns)
        for name, returns in found
        if _hands_on(module, silenced, name, example)
    ]


def least_important(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], blocks: list[Block], count: int
) -> tuple[list[Block], dict[str, str]]:
    """Up to `count` blocks to drop, and those that the network does not run without."""
    whole = answers(module, example)
    smaller = copy.deepcopy(module).eval()
    dropped: list[Block] = []
    left: dict[str, str] = {}
    while len(dropped) < count:
        best: tuple[float, Block] | None = None
        for block in blocks:
            if block in dropped or block.name in left or _inside(block, dropped):
                continue
            error = _error_without(smaller, block, example, whole)
            if error is None:
                left[block.name] = "the network does not run without it"
            elif best is None or error < best[0]:
                best = (error, block)
        if best is None:
            break
        dropped.append(best[1])
        history.skip(smaller, best[1].name, best[1].returns)
    return dropped, left


def difference(whole: list[torch.Tensor], found: list[torch.Tensor]) -> float | None:
    """Root mean square of the difference over that of the answers; None where shapes differ."""
    if [each.shape for each in whole] != [each.shape for each in found]:
        return None
    pairs = [(a, b) for a, b in zip(whole, found, strict=True) if a.is_floating_point()]
    error = sum(float((a - b).double().square().sum()) for a, b in pairs)
    signal = sum(float(a.double().square().sum()) for a, _ in pairs)
    return float((error / max(signal, 1e-30)) ** 0.5)


def _error_without(
    module: torch.nn.Module,
    block: Block,
    example: tuple[torch.Tensor, ...],
    whole: list[torch.Tensor],
) -> float | None:
    kept = module.get_submodule(block.name)
    history.skip(module, block.name, block.returns)
    try:
        return difference(whole, answers(module, example))
    except Exception:  # the user's forward() may raise anything
        return None
    finally:
        module.set_submodule(block.name, kept)


def _inside(block: Block, dropped: list[Block]) -> bool:
    return any(
        block.name.startswith(f"{each.name}.") or each.name.startswith(f"{block.name}.")
        for each in dropped
    )


def _same_form(given: Any, output: Any) -> bool:
    answer = leaves(output)[:1]
    return (
        bool(answer)
        and hasattr(given, "shape")
        and given.shape == answer[0].shape
        and given.dtype == answer[0].dtype
        and given.is_floating_point()
    )


def _silence(block: torch.nn.Module) -> None:
    """All weights nothing, but for norms over features: those say only in what scale it answers."""
    import torch

    with torch.no_grad():
        for layer in block.modules():
            if isinstance(layer, (torch.nn.LayerNorm, torch.nn.RMSNorm)):
                continue
            for parameter in layer.parameters(recurse=False):
                parameter.zero_()


def _hands_on(
    module: torch.nn.Module,
    silenced: torch.nn.Module,
    name: str,
    example: tuple[torch.Tensor, ...],
) -> bool:
    import torch

    seen: list[tuple[Any, Any]] = []
    kept = module.get_submodule(name)
    block = silenced.get_submodule(name)
    handle = block.register_forward_hook(
        lambda _, args, kwargs, output: seen.append(
            (args[0] if args else next(iter(kwargs.values())), output)
        ),
        with_kwargs=True,
    )
    module.set_submodule(name, block)
    try:
        answers(module, example)
    except Exception:  # the user's forward() may raise anything
        return False
    finally:
        handle.remove()
        module.set_submodule(name, kept)
    if not seen:
        return False
    given, output = seen[0]
    pair = torch.stack([given.flatten().double(), leaves(output)[0].flatten().double()])
    if not bool((pair.std(1) > 1e-9).all()):
        return False
    return float(torch.corrcoef(pair)[0, 1]) > HANDED_ON
