"""ONNX operators that place, count and choose values, as torch does them: shapes, indices, masks.

Exporters compute positions and masks of encoders with them, from the sizes of the inputs. What
they make lies on the device of what they are given, so that all of a graph stays on one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError
from mlserve_cli.quantize.weights import attribute

if TYPE_CHECKING:
    import torch
    from onnx import NodeProto

Values = Sequence[Any]
"""Tensors; None where an optional input is left out."""

Function = Callable[["NodeProto", Values], Any]
"""One output as a tensor, several as a tuple of them."""

HINT = "quantize it with --method static, which needs no training"


def table() -> Mapping[str, Function]:
    """Operator → function(node, inputs)."""
    import torch

    return {
        "Concat": lambda node, values: torch.cat(list(values), attribute(node, "axis", 0)),
        "ConstantOfShape": _constant_of_shape,
        "CumSum": _cum_sum,
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "GatherElements": _gather_elements,
        "GatherND": _gather_nd,
        "Pad": _pad,
        "Range": _range,
        "Reshape": _reshape,
        "Shape": _shape,
        "Slice": _slice,
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": lambda node, values: values[0].repeat(*whole(values[1])),
        "Transpose": lambda node, values: values[0].permute(
            attribute(node, "perm", tuple(range(values[0].ndim))[::-1])
        ),
        "Trilu": _trilu,
        "Unsqueeze": _unsqueeze,
    }


def whole(value: torch.Tensor) -> list[int]:
    """A tensor of sizes, places or axes as numbers."""
    return [int(each) for each in value.reshape(-1).tolist()]


def axes_of(node: NodeProto, values: Values) -> list[int] | None:
    """An attribute before opset 13 or 18, an input since."""
    if len(values) > 1 and values[1] is not None:
        return whole(values[1])
    given = attribute(node, "axes", None)
    return None if given is None else list(given)


def _reshape(node: NodeProto, values: Values) -> torch.Tensor:
    x, shape = values[0], whole(values[1])
    if not attribute(node, "allowzero", 0):
        shape = [x.shape[place] if size == 0 else size for place, size in enumerate(shape)]
    found: torch.Tensor = x.reshape(shape)
    return found


def _flatten(node: NodeProto, values: Values) -> torch.Tensor:
    x, axis = values[0], attribute(node, "axis", 1)
    found: torch.Tensor = x.reshape(math.prod(x.shape[:axis]), -1)
    return found


def _squeeze(node: NodeProto, values: Values) -> torch.Tensor:
    axes = axes_of(node, values)
    found: torch.Tensor = values[0].squeeze() if axes is None else values[0].squeeze(tuple(axes))
    return found


def _unsqueeze(node: NodeProto, values: Values) -> torch.Tensor:
    found: torch.Tensor = values[0]
    axes = axes_of(node, values) or []
    rank = found.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        found = found.unsqueeze(axis)
    return found


def _gather(node: NodeProto, values: Values) -> torch.Tensor:
    x, places = values[0], values[1]
    axis = attribute(node, "axis", 0) % x.ndim
    places = places.to(x.device).long()
    places = places.where(places >= 0, places + x.shape[axis])
    found: torch.Tensor = x.index_select(axis, places.reshape(-1)).reshape(
        (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    )
    return found


def _slice(node: NodeProto, values: Values) -> torch.Tensor:
    x, starts, ends = values[0], whole(values[1]), whole(values[2])
    axes = whole(values[3]) if len(values) > 3 and values[3] is not None else range(len(starts))
    steps = whole(values[4]) if len(values) > 4 else [1] * len(starts)
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise StepError(f"the node '{node.name}' reads backwards.", hint=HINT)
        size = x.shape[axis]  # exporters write the end of an int64 for "to the end"
        cut[axis] = slice(max(start, -size), min(end, size), step)
    found: torch.Tensor = x[tuple(cut)]
    return found


def _expand(node: NodeProto, values: Values) -> torch.Tensor:
    import torch

    both = (values[0].shape, tuple(whole(values[1])))
    shape = torch.broadcast_shapes(*both)  # type: ignore[no-untyped-call]
    found: torch.Tensor = values[0].expand(shape)
    return found


def _pad(node: NodeProto, values: Values) -> torch.Tensor:
    import torch.nn.functional as F  # noqa: N812

    x, pads = values[0], whole(values[1])
    if attribute(node, "mode", b"constant") != b"constant" or len(values) > 3:
        raise StepError(f"the node '{node.name}' pads with other than a constant.", hint=HINT)
    rank = x.ndim
    both = [each for axis in reversed(range(rank)) for each in (pads[axis], pads[axis + rank])]
    value = float(values[2]) if len(values) > 2 and values[2] is not None else 0.0
    return F.pad(x, both, value=value)


def _constant_of_shape(node: NodeProto, values: Values) -> torch.Tensor:
    import torch
    from onnx import numpy_helper

    value = attribute(node, "value", None)
    filler = torch.zeros(1) if value is None else torch.from_numpy(numpy_helper.to_array(value))
    found: torch.Tensor = torch.full(
        whole(values[0]), filler.item(), dtype=filler.dtype, device=values[0].device
    )
    return found


def _cum_sum(node: NodeProto, values: Values) -> torch.Tensor:
    x, axis = values[0], int(values[1])
    if attribute(node, "exclusive", 0) or attribute(node, "reverse", 0):
        raise StepError(f"the node '{node.name}' sums up from the end.", hint=HINT)
    found: torch.Tensor = x.cumsum(axis, dtype=x.dtype)  # of whole numbers torch makes int64
    return found


def _gather_elements(node: NodeProto, values: Values) -> torch.Tensor:
    x, axis = values[0], attribute(node, "axis", 0)
    places = values[1].to(x.device).long()
    places = places.where(places >= 0, places + x.shape[axis])
    # The other dimensions may be shorter than those of x, as torch.gather has it as well.
    found: torch.Tensor = x.gather(axis, places)
    return found


def _gather_nd(node: NodeProto, values: Values) -> torch.Tensor:
    """Each index is a row of the last dimension: it names a place in x's first dimensions.

    The first `batch_dims` dimensions are common to both, and counted through together.
    """
    import torch

    x, common = values[0], attribute(node, "batch_dims", 0)
    places = values[1].to(x.device).long()
    shape = (*places.shape[:-1], *x.shape[common + places.shape[-1] :])
    flat = x.reshape(-1, *x.shape[common:])  # (batches, …)
    rows = torch.arange(len(flat), device=x.device).reshape(-1, *[1] * (places.ndim - 1 - common))
    index = places.reshape(len(flat), *places.shape[common:]).unbind(-1)
    found: torch.Tensor = flat[(rows, *index)].reshape(shape)
    return found


def _range(node: NodeProto, values: Values) -> torch.Tensor:
    """From start up to the limit, without it, in steps of delta; of the type of all three."""
    import torch

    start, limit, delta = (value.reshape(()) for value in values)
    found: torch.Tensor = torch.arange(
        start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device
    )
    return found


def _shape(node: NodeProto, values: Values) -> torch.Tensor:
    import torch

    x = values[0]
    sizes = x.shape[attribute(node, "start", 0) : attribute(node, "end", None)]
    return torch.tensor(sizes, dtype=torch.int64, device=x.device)


def _split(node: NodeProto, values: Values) -> tuple[torch.Tensor, ...]:
    """Parts of the given lengths; without them, as equal as can be, the last one shorter."""
    x, axis = values[0], attribute(node, "axis", 0)
    given = values[1] if len(values) > 1 else None
    sizes: int | list[int] = (
        -(-x.shape[axis] // len(node.output)) if given is None else whole(given)
    )
    return tuple(x.split(sizes, axis))


def _trilu(node: NodeProto, values: Values) -> torch.Tensor:
    x = values[0]
    diagonal = int(values[1]) if len(values) > 1 and values[1] is not None else 0
    found: torch.Tensor = (x.triu if attribute(node, "upper", 1) else x.tril)(diagonal)
    return found
