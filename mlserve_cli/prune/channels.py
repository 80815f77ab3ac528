"""Which channels go, and taking them out: a thin adapter over Torch-Pruning's dependency graph.

The unit is a *group*: all layers whose channels must go together, because their results are added,
normalized or read by the next layer (Fang et al., "DepGraph", 2023). A channel's importance is
the L2 norm of everything in the group that belongs to it. Every group loses the same share: ranked
over the whole network instead, magnitudes of different layers would be compared, and early layers,
which cost the most time, would be the last to shrink.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.prune import masks
from mlserve_cli.training import history

if TYPE_CHECKING:
    import torch

MULTIPLE = 8
"""Channels that stay are a multiple of this: float32 vectors of AVX2 hold 8, and a ragged rest
costs as much as a whole vector."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The channels to take out of one group, named by one layer that makes them."""

    layer: str
    before: int
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """The smaller network; what changed, for the history; groups that were left, and why."""

    module: torch.nn.Module
    layers: history.Sizes
    cuts: tuple[Cut, ...]
    left: dict[str, str]


def prune(module: torch.nn.Module, example: tuple[torch.Tensor, ...], *, ratio: float) -> Pruned:
    """Take the least important `ratio` of the channels out of every group that allows it.

    `module` stays as it is. The layers that make the network's outputs are never cut. Raises
    `StepError` when the network cannot be traced or nothing in it can be pruned.
    """
    before = history.sizes(module)
    cuts, left = _plan(module, example, ratio)
    if cuts and _fits(module, example, cuts) is None:
        # Something reads channels in a way that the graph gets wrong, a view with a fixed size
        # for one. Find the groups that can go, one after the other.
        kept: list[Cut] = []
        for cut in cuts:
            if _fits(module, example, [*kept, cut]) is None:
                left[cut.layer] = "its channels cannot be told apart in what reads them"
            else:
                kept.append(cut)
        cuts = kept
    if not cuts:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise StepError(
            f"nothing can be pruned at ratio {ratio:g}"
            + (f" ({reasons})." if reasons else ": no layer has inner channels."),
            hint=f"channels stay in multiples of {MULTIPLE}; a larger --ratio may find some",
        )
    smaller = _fits(module, example, cuts)
    if smaller is None:
        raise StepError("the pruned network does not run.")
    return Pruned(smaller, history.changes(before, history.sizes(smaller)), tuple(cuts), left)


def kept(channels: int, ratio: float, *, together: int = 1) -> int:
    """How many of `channels` stay: the nearest multiple of 8, at least 8, never more than now.

    `together` groups of a grouped convolution keep the same number each, so the result is a
    multiple of it too.
    """
    step = math.lcm(MULTIPLE, together)
    nearest = math.floor(channels * (1 - ratio) / step + 0.5) * step
    return min(channels, max(step, nearest))


def _plan(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], ratio: float
) -> tuple[list[Cut], dict[str, str]]:
    """The cuts for every group, and the groups that are left with the reason."""
    import torch

    module = _copy(module)
    names = {layer: name for name, layer in module.named_modules()}
    cuts: list[Cut] = []
    left: dict[str, str] = {}
    with _tracing(module, example) as (graph, importance):
        for group in graph.get_all_groups(root_module_types=_roots()):
            root = group[0].dep.target.module
            name, channels = names[root], graph.get_out_channels(root)
            if _makes_output(graph, group):
                continue
            together = _together(graph, group)
            stay = kept(channels, ratio, together=together)
            if stay >= channels:
                left[name] = f"{channels} channels"
                continue
            try:
                score = importance(group)
            except (IndexError, RuntimeError):  # the graph has channels that a layer does not have
                score = None
            if score is None or len(score) != channels:
                left[name] = "its channels cannot be told apart in what reads them"
                continue
            # A grouped convolution loses the same places in each of its groups.
            by_place = score.view(together, -1).mean(0)
            places = torch.argsort(by_place, stable=True)[: (channels - stay) // together]
            size = channels // together
            chosen = [int(place) + start * size for start in range(together) for place in places]
            cuts.append(Cut(name, channels, tuple(sorted(chosen))))
    return cuts, left


def _fits(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    cuts: list[Cut],
) -> torch.nn.Module | None:
    """A copy without those channels; None when it does not run, or the wrong ones went.

    Taking channels out must be the same as setting them to nothing. The dependency graph is not
    always right (a concatenation that is flattened, for one), and fine-tuning would hide it.
    """
    smaller, masked = _copy(module), _copy(module)
    frozen = {name for name, each in module.named_parameters() if not each.requires_grad}
    layers = dict(smaller.named_modules())
    try:
        with _tracing(smaller, example) as (graph, _):
            comparable = True
            for cut in cuts:
                comparable &= masks.blank(
                    graph, _group(graph, layers[cut.layer], cut), smaller, masked
                )
            for cut in cuts:
                group = _group(graph, layers[cut.layer], cut)
                if not graph.check_pruning_group(group):
                    return None
                group.prune()
        _tie(module, smaller)
        for name, parameter in smaller.named_parameters():
            parameter.requires_grad_(name not in frozen)
        found, expected = answers(smaller, example), answers(masked, example)
    except (RuntimeError, ValueError, IndexError, AttributeError, TypeError, AssertionError):
        return None
    if [each.shape for each in found] != [each.shape for each in expected]:
        return None
    alike = not comparable or masks.alike(expected, found)
    return smaller if alike else None


def _group(graph: Any, layer: Any, cut: Cut) -> Any:
    function = graph.get_pruner_of_module(layer).prune_out_channels
    return graph.get_pruning_group(layer, function, list(cut.channels))


@contextmanager
def _tracing(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...]
) -> Iterator[tuple[Any, Any]]:
    """Torch-Pruning's dependency graph of `module`, and its ranking."""
    import torch_pruning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what it handles, and our checks see the rest
        for parameter in module.parameters():
            parameter.requires_grad_(True)  # the graph is read off the gradients
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(module, example_inputs=example)
        except Exception as error:
            raise StepError(
                f"the network cannot be traced for pruning: {first_line(error)}",
                hint="forward() must be differentiable, with tensors in and tensors out",
            ) from error
        yield graph, torch_pruning.importance.GroupMagnitudeImportance(p=2)


def _roots() -> tuple[type, ...]:
    import torch

    return (torch.nn.modules.conv._ConvNd, torch.nn.Linear)


def _makes_output(graph: Any, group: Any) -> bool:
    """Whether the group's channels reach the network's outputs, whose shape must stay."""
    return any(
        not dep.target.outputs
        # A last layer that reads the channels is the normal case: its own outputs stay.
        and not (
            graph.is_in_channel_pruning_fn(dep.handler) and isinstance(dep.target.module, _roots())
        )
        for dep, _ in group
    )


def _together(graph: Any, group: Any) -> int:
    """The largest number of groups of a grouped convolution or norm in the group; depthwise: 1."""
    import torch

    most = 1
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, torch.nn.modules.conv._ConvNd) and layer.groups != layer.out_channels:
            most = max(most, layer.groups)
        elif isinstance(layer, torch.nn.GroupNorm):
            most = max(most, layer.num_groups)
    return most


def _tie(before: torch.nn.Module, after: torch.nn.Module) -> None:
    """Share again the parameters that were shared: pruning makes each of them anew."""
    owners: dict[int, str] = {}
    for name, parameter in before.named_parameters(remove_duplicate=False):
        owner = owners.setdefault(id(parameter), name)
        if owner != name:
            path, _, attribute = name.rpartition(".")
            setattr(after.get_submodule(path), attribute, after.get_parameter(owner))


def answers(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """What a network answers in eval mode, tensor by tensor."""
    import torch

    with torch.no_grad():
        return _leaves(module.eval()(*example))


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value] if hasattr(value, "shape") else []


def _copy(module: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(module).eval()
