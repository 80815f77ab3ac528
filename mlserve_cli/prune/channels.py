"""Which channels can go, and taking them out: a thin adapter over Torch-Pruning's dependency graph.

The unit is a *group*: all layers whose channels must go together, because their results are added,
normalized or read by the next layer (Fang et al., "DepGraph", 2023).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserve_cli.prune import importance, masks, tracing

if TYPE_CHECKING:
    import torch

MULTIPLE = 8
"""Channels that stay are a multiple of this: float32 vectors of AVX2 hold 8, and a ragged rest
costs as much as a whole vector."""

BLOCKED, BLOCK = 32, 16
"""Groups from this size on keep multiples of 16: with AVX-512 ONNX Runtime's convolutions work on
blocks of 16 channels and fill the last one up, so that 40 take the time of 48. Smaller groups would
have no choice left."""

WIDE, WIDE_MULTIPLE = 256, 32
"""Groups of linear layers alone from this width on keep multiples of 32: matrix kernels work on
panels of 16 to 64 columns, and feed-forward layers are wide enough to lose nothing by it."""

UNTOLD = "its channels cannot be told apart in what reads them"
STREAM = "attention reads or adds to it, and its heads are taken out instead"


@dataclass(frozen=True, slots=True)
class Cut:
    """The channels to take out of one group, named by one layer that makes them."""

    layer: str
    before: int
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A group that may be cut, named by one layer that makes its channels.

    scores: the importance of each channel, by mean 1. together: grouped convolutions lose the same
    places in each of so many equal parts. multiple: what stays is one of it.
    """

    layer: str
    channels: int
    together: int
    multiple: int
    scores: tuple[float, ...]

    def kept(self, ratio: float, *, of: int | None = None) -> int:
        """How many of `of` channels (by default all) stay, never more than there are."""
        whole = of or self.channels
        stay = kept(whole, ratio, together=self.together, multiple=self.multiple)
        return min(self.channels, stay)

    def cut(self, stay: int) -> Cut:
        """Take out all but the `stay` most important ones."""
        size = self.channels // self.together
        by_place = [sum(self.scores[place::size]) for place in range(size)]
        order = sorted(range(size), key=lambda place: (by_place[place], place))
        places = order[: (self.channels - stay) // self.together]
        chosen = [place + part * size for part in range(self.together) for place in places]
        return Cut(self.layer, self.channels, tuple(sorted(chosen)))


def kept(channels: int, ratio: float, *, together: int = 1, multiple: int = MULTIPLE) -> int:
    """How many of `channels` stay: the nearest multiple of 8, at least 8, never more than now.

    `together` groups of a grouped convolution keep the same number each, so the result is a
    multiple of it too.
    """
    step = math.lcm(multiple, together)
    nearest = math.floor(channels * (1 - ratio) / step + 0.5) * step
    return min(channels, max(step, nearest))


def survey(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    *,
    ranked_by: str = "l2",
    gradients: importance.Gradients | None = None,
    attention: Collection[str] = (),
) -> tuple[list[Group], dict[str, str]]:
    """The groups that can be cut, and the layers whose groups cannot, with the reason.

    The layers that make the network's outputs are neither: they stay as they are.
    attention: names of layers that belong to attention modules. Raises `StepError` when the
    network cannot be traced.
    """
    module = tracing.duplicate(module)
    names = {layer: name for name, layer in module.named_modules()}
    if gradients is not None:
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        gradients(module)
    score = importance.of_group(ranked_by)
    groups: list[Group] = []
    left: dict[str, str] = {}
    with tracing.graph(module, example) as graph:
        for group in graph.get_all_groups(root_module_types=_roots()):
            root = group[0].dep.target.module
            name, channels = names[root], graph.get_out_channels(root)
            if _makes_output(graph, group):
                continue
            if attention and _is_stream(group, names, attention):
                if name not in attention:
                    left[name] = STREAM
                continue
            together, multiple = _together(graph, group), _multiple(group, names, channels)
            if math.lcm(together, multiple) >= channels:
                left[name] = f"{channels} channels"
                continue
            try:
                scores = score(group)
            except (IndexError, RuntimeError):  # the graph has channels that a layer does not have
                scores = None
            if scores is None or len(scores) != channels:
                left[name] = UNTOLD
                continue
            found = tuple(float(each) for each in scores)
            groups.append(Group(name, channels, together, multiple, found))
    return groups, left


def take_out(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    cuts: Sequence[Cut],
    *,
    check: bool = True,
) -> torch.nn.Module | None:
    """A copy without those channels; None when it does not run, or the wrong ones went.

    Taking channels out must be the same as setting them to nothing. The dependency graph is not
    always right (a concatenation that is flattened, for one), and fine-tuning would hide it.
    check: compare with the silenced network; what was compared once need not be again.
    """
    smaller = tracing.duplicate(module)
    masked = tracing.duplicate(module) if check else None
    frozen = {name for name, each in module.named_parameters() if not each.requires_grad}
    layers = dict(smaller.named_modules())
    try:
        with tracing.graph(smaller, example) as graph:
            if masked is not None:
                for cut in cuts:
                    _silence(graph, layers, cut, smaller, masked)
            for cut in cuts:
                group = _group(graph, layers[cut.layer], cut)
                if not graph.check_pruning_group(group):
                    return None
                group.prune()
        _tie(module, smaller)
        for name, parameter in smaller.named_parameters():
            parameter.requires_grad_(name not in frozen)
        found = tracing.answers(smaller, example)
        expected = found if masked is None else tracing.answers(masked, example)
    except (RuntimeError, ValueError, IndexError, AttributeError, TypeError, AssertionError):
        return None
    return smaller if masks.alike(expected, found) else None


def that_go(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], cuts: Sequence[Cut]
) -> tuple[torch.nn.Module | None, list[Cut], dict[str, str]]:
    """The network without the channels that really go; those cuts; layers that are left, and why.

    The module is None where no cut is left.
    """
    smaller = take_out(module, example, cuts) if cuts else None
    if smaller is not None or not cuts:
        return smaller, list(cuts), {}
    # Something reads channels in a way that the graph gets wrong, a view with a fixed size for
    # one. Find the groups that can go, one after the other.
    good: list[Cut] = []
    left: dict[str, str] = {}
    for cut in cuts:
        without = take_out(module, example, [*good, cut])
        if without is None:
            left[cut.layer] = UNTOLD
        else:
            smaller = without
            good.append(cut)
    return smaller, good, left


def silenced(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], cuts: Iterable[Cut]
) -> Iterator[torch.nn.Module]:
    """For each cut alone a copy in which those channels are nothing."""
    traced = tracing.duplicate(module)
    layers = dict(traced.named_modules())
    with tracing.graph(traced, example) as graph:
        for cut in cuts:
            masked = tracing.duplicate(module)
            _silence(graph, layers, cut, traced, masked)
            yield masked


def _silence(
    graph: Any,
    layers: Mapping[str, Any],
    cut: Cut,
    traced: torch.nn.Module,
    masked: torch.nn.Module,
) -> None:
    masks.blank(graph, _group(graph, layers[cut.layer], cut), traced, masked)


def _group(graph: Any, layer: Any, cut: Cut) -> Any:
    function = graph.get_pruner_of_module(layer).prune_out_channels
    return graph.get_pruning_group(layer, function, list(cut.channels))


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


def _is_stream(group: Any, names: Mapping[Any, str], attention: Collection[str]) -> bool:
    """Whether the group is what a transformer's layers add to, or projections inside attention."""
    import torch

    return any(
        isinstance(dep.target.module, (torch.nn.LayerNorm, torch.nn.RMSNorm))
        or names.get(dep.target.module) in attention
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


def _multiple(group: Any, names: Mapping[Any, str], channels: int) -> int:
    import torch

    linear = all(
        isinstance(dep.target.module, torch.nn.Linear)
        for dep, _ in group
        if dep.target.module in names and any(True for _ in dep.target.module.parameters())
    )
    if linear and channels >= WIDE:
        return WIDE_MULTIPLE
    return BLOCK if channels >= BLOCKED else MULTIPLE


def _tie(before: torch.nn.Module, after: torch.nn.Module) -> None:
    """Share again the parameters that were shared: pruning makes each of them anew."""
    owners: dict[int, str] = {}
    for name, parameter in before.named_parameters(remove_duplicate=False):
        owner = owners.setdefault(id(parameter), name)
        if owner != name:
            path, _, attribute = name.rpartition(".")
            setattr(after.get_submodule(path), attribute, after.get_parameter(owner))
