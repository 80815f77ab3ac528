"""Attention heads: finding them, ranking them, and taking whole ones out.

A head is its rows of the query, key and value projections and its columns of the output
projection; the width of what is read and written stays. Torch's own `nn.MultiheadAttention` is
known, and modules whose projections and head count have the names that Hugging Face, timm or most
people give them. What is found wrongly does not get through: each module is checked against itself
with a silent head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserve_cli.prune.importance import of_weight
from mlserve_cli.training import history

if TYPE_CHECKING:
    import torch

INPUTS = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("q", "k", "v"),
    ("qkv",),
    ("in_proj",),
    ("c_attn",),
)
"""Names of the projections inside an attention module; a single one holds all three in a row."""

OUTPUTS = ("out_proj", "o_proj", "out_lin", "proj", "out", "c_proj", "to_out")
OUTPUT_BESIDE = "output.dense"
"""Of BERT and its kin: the output projection lies beside the attention module, not in it."""

COUNTS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "heads")
WIDTHS = ("all_head_size", "inner_dim")
"""Attributes that say heads · size, and must follow."""


@dataclass(frozen=True, slots=True)
class Attention:
    """An attention module: its heads, how wide each is, and where its projections lie.

    inputs: of the query, key and value; one name where a single layer makes all three. Empty for
    `nn.MultiheadAttention`, whose own parameter they are.
    count: the attribute that says how many heads there are.
    """

    name: str
    heads: int
    size: int
    inputs: tuple[str, ...]
    output: str
    count: str


@dataclass(frozen=True, slots=True)
class HeadCut:
    """The heads to take out of one attention module."""

    attention: Attention
    heads: tuple[int, ...]


def find(module: torch.nn.Module) -> list[Attention]:
    """Every attention module whose heads can be told apart."""
    import torch

    from mlserve_cli.training.stand_ins import NarrowAttention

    found = []
    for name, layer in module.named_modules():
        if isinstance(layer, NarrowAttention) or (
            isinstance(layer, torch.nn.MultiheadAttention)
            and layer._qkv_same_embed_dim
            and layer.bias_k is None
            and not layer.add_zero_attn
        ):
            output = _join(name, "out_proj")
            found.append(Attention(name, layer.num_heads, layer.head_dim, (), output, "num_heads"))
        elif not isinstance(layer, torch.nn.MultiheadAttention):
            found += _named(module, name, layer)
    return found


def _named(module: torch.nn.Module, name: str, layer: torch.nn.Module) -> list[Attention]:
    import torch

    count = next((each for each in COUNTS if isinstance(vars(layer).get(each), int)), None)
    children = dict(layer.named_children())
    if count is None:
        return []
    heads = vars(layer)[count]
    beside = _join(name.rpartition(".")[0], OUTPUT_BESIDE)
    outputs = [_join(name, each) for each in OUTPUTS if each in children] or (
        [beside] if beside in dict(module.named_modules()) else []
    )
    for names in INPUTS:
        if not all(isinstance(children.get(each), torch.nn.Linear) for each in names):
            continue
        widths = {int(children[each].out_features) for each in names}  # type: ignore[arg-type]
        width = widths.pop() // (3 if len(names) == 1 else 1)
        if widths or not outputs or heads < 1 or width % heads:
            continue
        output = module.get_submodule(outputs[0])
        if isinstance(output, torch.nn.Linear) and output.in_features == width:
            inputs = tuple(_join(name, each) for each in names)
            return [Attention(name, heads, width // heads, inputs, outputs[0], count)]
    return []


def layers(found: Iterable[Attention]) -> set[str]:
    """The names of all modules that belong to attention."""
    return {name for each in found for name in (each.name, *each.inputs, each.output)}


def scores(module: torch.nn.Module, found: Attention, importance: str) -> list[float]:
    """The importance of each head, by mean 1; `.grad` is read where it says so."""
    import torch

    columns = module.get_submodule(found.output).weight
    total = _importance(importance, columns).sum(0).view(found.heads, -1).sum(1)
    for weight in _projections(module, found):
        rows = _importance(importance, weight).flatten(1).sum(1)
        total = total + rows.view(-1, found.heads, found.size).sum((0, 2))
    return [float(each) for each in total / torch.clamp(total.mean(), min=1e-30)]


def kept(heads: int, ratio: float) -> int:
    """How many heads stay: the nearest number, at least one."""
    return max(1, min(heads, int(heads * (1 - ratio) + 0.5)))


def silence(masked: torch.nn.Module, cut: HeadCut) -> None:
    """Nobody reads those heads any more."""
    import torch

    with torch.no_grad():
        weight = masked.get_submodule(cut.attention.output).weight
        weight[:, _channels(cut.attention, cut.heads)] = 0  # type: ignore[operator]


def take_out(module: torch.nn.Module, cut: HeadCut) -> bool:
    """Take the heads out of `module`, in place; whether the module itself had to be replaced."""
    import torch

    found = cut.attention
    stay = [head for head in range(found.heads) if head not in cut.heads]
    channels = _channels(found, stay)
    inner = found.heads * found.size
    replaced = isinstance(module.get_submodule(found.name), torch.nn.MultiheadAttention)
    if not found.inputs:
        history.narrow(module, found.name)
    layer: Any = module.get_submodule(found.name)
    rows = [part * inner + channel for part in range(3) for channel in channels]
    if not found.inputs:
        layer.in_proj_weight = _parameter(layer.in_proj_weight, rows)
        if layer.in_proj_bias is not None:
            layer.in_proj_bias = _parameter(layer.in_proj_bias, rows)
    for name in found.inputs:
        linear: Any = module.get_submodule(name)
        chosen = rows if len(found.inputs) == 1 else channels
        linear.weight = _parameter(linear.weight, chosen)
        if linear.bias is not None:
            linear.bias = _parameter(linear.bias, chosen)
        linear.out_features = len(chosen)
    output: Any = module.get_submodule(found.output)
    output.weight = _parameter(output.weight, channels, axis=1)
    output.in_features = len(channels)
    setattr(layer, found.count, len(stay))
    for width in WIDTHS:
        if vars(layer).get(width) == inner:
            setattr(layer, width, len(channels))
    return replaced


def _importance(kind: str, weight: Any) -> torch.Tensor:
    return of_weight(kind, weight, weight.grad)


def _projections(module: torch.nn.Module, found: Attention) -> list[Any]:
    if not found.inputs:
        return [module.get_submodule(found.name).in_proj_weight]
    return [module.get_submodule(name).weight for name in found.inputs]


def _channels(found: Attention, heads: Sequence[int]) -> list[int]:
    return [head * found.size + place for head in heads for place in range(found.size)]


def _parameter(tensor: torch.Tensor, chosen: list[int], axis: int = 0) -> torch.nn.Parameter:
    import torch

    index = torch.tensor(chosen, device=tensor.device)
    return torch.nn.Parameter(
        tensor.detach().index_select(axis, index).clone(), requires_grad=tensor.requires_grad
    )


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name
