"""ONNX operators as torch computes them, with gradients: name → function(node, inputs) → output.

Those that convolutional networks and encoders are made of, in the form that `prepare` leaves them
in; the standard's text on each operator is the source. What is missing is refused by its name.
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


def table() -> Mapping[str, Function]:
    """Every operator that can be computed."""
    import torch
    import torch.nn.functional as F  # noqa: N812  (its usual name)

    def plain(function: Callable[..., torch.Tensor]) -> Function:
        return lambda node, values: function(*values)

    return {
        "Abs": plain(torch.abs),
        "Add": plain(torch.add),
        "And": plain(torch.logical_and),
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalization,
        "Cast": _cast,
        "Clip": _clip,
        "Concat": lambda node, values: torch.cat(list(values), attribute(node, "axis", 0)),
        "Conv": _conv,
        "Div": _divide,
        "Elu": lambda node, values: F.elu(values[0], attribute(node, "alpha", 1.0)),
        "Equal": plain(torch.eq),
        "Erf": plain(torch.erf),
        "Exp": plain(torch.exp),
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "Gelu": lambda node, values: F.gelu(
            values[0], approximate=attribute(node, "approximate", b"none").decode()
        ),
        "Gemm": _gemm,
        "GlobalAveragePool": lambda node, values: values[0].mean(
            tuple(range(2, values[0].ndim)), keepdim=True
        ),
        "Greater": plain(torch.gt),
        "HardSigmoid": lambda node, values: (
            attribute(node, "alpha", 0.2) * values[0] + attribute(node, "beta", 0.5)
        ).clamp(0, 1),
        "HardSwish": plain(F.hardswish),
        "Identity": lambda node, values: values[0],
        "LayerNormalization": _layer_normalization,
        "LeakyRelu": lambda node, values: F.leaky_relu(values[0], attribute(node, "alpha", 0.01)),
        "Less": plain(torch.lt),
        "Log": plain(torch.log),
        "MatMul": plain(torch.matmul),
        "Max": plain(torch.maximum),
        "MaxPool": _max_pool,
        "Min": plain(torch.minimum),
        "Mul": plain(torch.mul),
        "Neg": plain(torch.neg),
        "Not": plain(torch.logical_not),
        "Pad": _pad,
        "Pow": plain(torch.pow),
        "ReduceMean": _reduce_mean,
        "Relu": plain(torch.relu),
        "Reshape": _reshape,
        "Shape": lambda node, values: torch.tensor(
            values[0].shape[attribute(node, "start", 0) : attribute(node, "end", None)]
        ),
        "Sigmoid": plain(torch.sigmoid),
        "Slice": _slice,
        "Softmax": lambda node, values: torch.softmax(values[0], attribute(node, "axis", -1)),
        "Sqrt": plain(torch.sqrt),
        "Squeeze": _squeeze,
        "Sub": plain(torch.sub),
        "Tanh": plain(torch.tanh),
        "Transpose": lambda node, values: values[0].permute(
            attribute(node, "perm", tuple(range(values[0].ndim))[::-1])
        ),
        "Unsqueeze": _unsqueeze,
        "Where": plain(torch.where),
    }


def _conv(node: NodeProto, values: Values) -> torch.Tensor:
    import torch.nn.functional as F  # noqa: N812

    x, weight = values[0], values[1]
    spatial = x.ndim - 2
    function: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[spatial]
    x, padding = _padded(node, x, 0.0)
    found: torch.Tensor = function(
        x,
        weight,
        values[2] if len(values) > 2 else None,
        stride=tuple(attribute(node, "strides", [1] * spatial)),
        padding=padding,
        dilation=tuple(attribute(node, "dilations", [1] * spatial)),
        groups=attribute(node, "group", 1),
    )
    return found


def _max_pool(node: NodeProto, values: Values) -> torch.Tensor:
    import torch.nn.functional as F  # noqa: N812

    spatial = values[0].ndim - 2
    function: Any = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[spatial]
    x, padding = _padded(node, values[0], -math.inf)
    found: torch.Tensor = function(
        x,
        tuple(attribute(node, "kernel_shape", ())),
        stride=tuple(attribute(node, "strides", [1] * spatial)),
        padding=padding,
        dilation=tuple(attribute(node, "dilations", [1] * spatial)),
        ceil_mode=bool(attribute(node, "ceil_mode", 0)),
    )
    return found


def _average_pool(node: NodeProto, values: Values) -> torch.Tensor:
    import torch.nn.functional as F  # noqa: N812

    spatial = values[0].ndim - 2
    function: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[spatial]
    before, after = _pads(node, spatial)
    if before != after:
        raise StepError(f"the node '{node.name}' pads its two sides differently.", hint=_HINT)
    found: torch.Tensor = function(
        values[0],
        tuple(attribute(node, "kernel_shape", ())),
        stride=tuple(attribute(node, "strides", [1] * spatial)),
        padding=before,
        ceil_mode=bool(attribute(node, "ceil_mode", 0)),
        count_include_pad=bool(attribute(node, "count_include_pad", 0)),
    )
    return found


def _pads(node: NodeProto, spatial: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is added before and after each spatial dimension."""
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise StepError(f"the node '{node.name}' pads by itself (auto_pad).", hint=_HINT)
    pads = tuple(attribute(node, "pads", [0] * (2 * spatial)))
    return pads[:spatial], pads[spatial:]


def _padded(node: NodeProto, x: torch.Tensor, value: float) -> tuple[torch.Tensor, Any]:
    """The input, padded here where torch cannot, and the padding that is left to torch."""
    import torch.nn.functional as F  # noqa: N812

    spatial = x.ndim - 2
    before, after = _pads(node, spatial)
    if before == after:
        return x, before
    both = [each for pair in zip(before[::-1], after[::-1], strict=True) for each in pair]
    return F.pad(x, both, value=value), (0,) * spatial


def _gemm(node: NodeProto, values: Values) -> torch.Tensor:
    left = values[0].T if attribute(node, "transA", 0) else values[0]
    right = values[1].T if attribute(node, "transB", 0) else values[1]
    found: torch.Tensor = attribute(node, "alpha", 1.0) * (left @ right)
    if len(values) > 2:
        found = found + attribute(node, "beta", 1.0) * values[2]
    return found


def _batch_normalization(node: NodeProto, values: Values) -> torch.Tensor:
    import torch.nn.functional as F  # noqa: N812

    x, scale, bias, mean, variance = values
    return F.batch_norm(x, mean, variance, scale, bias, eps=attribute(node, "epsilon", 1e-5))


def _layer_normalization(node: NodeProto, values: Values) -> torch.Tensor:
    import torch.nn.functional as F  # noqa: N812

    x, scale = values[0], values[1]
    shape = x.shape[attribute(node, "axis", -1) :]
    bias = values[2] if len(values) > 2 else None
    return F.layer_norm(x, shape, scale, bias, eps=attribute(node, "epsilon", 1e-5))


def _clip(node: NodeProto, values: Values) -> torch.Tensor:
    low, high = (*values[1:], None, None)[:2]
    found: torch.Tensor = values[0].clamp(
        None if low is None else float(low), None if high is None else float(high)
    )
    return found


def _divide(node: NodeProto, values: Values) -> torch.Tensor:
    import torch

    whole = not values[0].is_floating_point()
    return torch.div(*values, rounding_mode="trunc" if whole else None)


def _cast(node: NodeProto, values: Values) -> torch.Tensor:
    import torch
    from onnx import helper

    wanted = helper.tensor_dtype_to_np_dtype(attribute(node, "to", 1))
    found: torch.Tensor = values[0].to(getattr(torch, str(wanted)))
    return found


def _reduce_mean(node: NodeProto, values: Values) -> torch.Tensor:
    axes = _axes(node, values)
    if axes is None:
        axes = list(range(values[0].ndim))
    found: torch.Tensor = values[0].mean(axes, keepdim=bool(attribute(node, "keepdims", 1)))
    return found


def _axes(node: NodeProto, values: Values) -> list[int] | None:
    """An attribute before opset 13 or 18, an input since."""
    if len(values) > 1 and values[1] is not None:
        return _whole(values[1])
    given = attribute(node, "axes", None)
    return None if given is None else list(given)


def _reshape(node: NodeProto, values: Values) -> torch.Tensor:
    x, shape = values[0], _whole(values[1])
    if not attribute(node, "allowzero", 0):
        shape = [x.shape[place] if size == 0 else size for place, size in enumerate(shape)]
    found: torch.Tensor = x.reshape(shape)
    return found


def _flatten(node: NodeProto, values: Values) -> torch.Tensor:
    x, axis = values[0], attribute(node, "axis", 1)
    found: torch.Tensor = x.reshape(math.prod(x.shape[:axis]), -1)
    return found


def _squeeze(node: NodeProto, values: Values) -> torch.Tensor:
    axes = _axes(node, values)
    found: torch.Tensor = values[0].squeeze() if axes is None else values[0].squeeze(tuple(axes))
    return found


def _unsqueeze(node: NodeProto, values: Values) -> torch.Tensor:
    found: torch.Tensor = values[0]
    axes = _axes(node, values) or []
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
    x, starts, ends = values[0], _whole(values[1]), _whole(values[2])
    axes = _whole(values[3]) if len(values) > 3 and values[3] is not None else range(len(starts))
    steps = _whole(values[4]) if len(values) > 4 else [1] * len(starts)
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise StepError(f"the node '{node.name}' reads backwards.", hint=_HINT)
        size = x.shape[axis]  # exporters write the end of an int64 for "to the end"
        cut[axis] = slice(max(start, -size), min(end, size), step)
    found: torch.Tensor = x[tuple(cut)]
    return found


def _expand(node: NodeProto, values: Values) -> torch.Tensor:
    import torch

    both = (values[0].shape, tuple(_whole(values[1])))
    shape = torch.broadcast_shapes(*both)  # type: ignore[no-untyped-call]
    found: torch.Tensor = values[0].expand(shape)
    return found


def _pad(node: NodeProto, values: Values) -> torch.Tensor:
    import torch.nn.functional as F  # noqa: N812

    x, pads = values[0], _whole(values[1])
    if attribute(node, "mode", b"constant") != b"constant" or len(values) > 3:
        raise StepError(f"the node '{node.name}' pads with other than a constant.", hint=_HINT)
    rank = x.ndim
    both = [each for axis in reversed(range(rank)) for each in (pads[axis], pads[axis + rank])]
    value = float(values[2]) if len(values) > 2 and values[2] is not None else 0.0
    return F.pad(x, both, value=value)


def _whole(value: torch.Tensor) -> list[int]:
    return [int(each) for each in value.reshape(-1).tolist()]


_HINT = "quantize it with --method static, which needs no training"
