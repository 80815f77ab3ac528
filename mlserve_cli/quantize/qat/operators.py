"""ONNX operators as torch computes them, with gradients: name → function(node, inputs) → output.

Those that convolutional networks and encoders are made of, in the form that `prepare` leaves them
in; the standard's text on each operator is the source. What is missing is refused by its name.
Those that only place, count and choose values stand in `shapes`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError
from mlserve_cli.quantize.qat import shapes
from mlserve_cli.quantize.qat.shapes import Function, Values, axes_of
from mlserve_cli.quantize.weights import attribute

if TYPE_CHECKING:
    import torch
    from onnx import NodeProto


def table() -> Mapping[str, Function]:
    """Every operator that can be computed."""
    import torch
    import torch.nn.functional as F  # noqa: N812  (its usual name)

    def plain(function: Callable[..., torch.Tensor]) -> Function:
        return lambda node, values: function(*values)

    def every(function: Callable[..., torch.Tensor]) -> Function:
        return lambda node, values: functools.reduce(function, values)

    return {
        **shapes.table(),
        "Abs": plain(torch.abs),
        "Add": plain(torch.add),
        "And": plain(torch.logical_and),
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalization,
        "Cast": _cast,
        "Ceil": plain(torch.ceil),
        "Clip": _clip,
        "Conv": _conv,
        "Cos": plain(torch.cos),
        "Div": _divide,
        "Elu": lambda node, values: F.elu(values[0], attribute(node, "alpha", 1.0)),
        "Equal": plain(torch.eq),
        "Erf": plain(torch.erf),
        "Exp": plain(torch.exp),
        "Floor": plain(torch.floor),
        "Gelu": lambda node, values: F.gelu(
            values[0], approximate=attribute(node, "approximate", b"none").decode()
        ),
        "Gemm": _gemm,
        "GlobalAveragePool": lambda node, values: values[0].mean(
            tuple(range(2, values[0].ndim)), keepdim=True
        ),
        "Greater": plain(torch.gt),
        "GreaterOrEqual": plain(torch.ge),
        "HardSigmoid": lambda node, values: (
            attribute(node, "alpha", 0.2) * values[0] + attribute(node, "beta", 0.5)
        ).clamp(0, 1),
        "HardSwish": plain(F.hardswish),
        "Identity": lambda node, values: values[0],
        "IsInf": _is_infinite,
        "IsNaN": plain(torch.isnan),
        "LayerNormalization": _layer_normalization,
        "LeakyRelu": lambda node, values: F.leaky_relu(values[0], attribute(node, "alpha", 0.01)),
        "Less": plain(torch.lt),
        "LessOrEqual": plain(torch.le),
        "Log": plain(torch.log),
        "MatMul": plain(torch.matmul),
        "Max": every(torch.maximum),
        "MaxPool": _max_pool,
        "Min": every(torch.minimum),
        "Mul": plain(torch.mul),
        "Neg": plain(torch.neg),
        "Not": plain(torch.logical_not),
        "Or": plain(torch.logical_or),
        "Pow": lambda node, values: torch.pow(*values).to(values[0].dtype),
        "Reciprocal": plain(torch.reciprocal),
        "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
        "ReduceMax": _reduced(torch.amax),
        "ReduceMean": _reduced(torch.mean),
        "ReduceMin": _reduced(torch.amin),
        "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype)),
        "Relu": plain(torch.relu),
        "Round": plain(torch.round),
        "Sigmoid": plain(torch.sigmoid),
        "Sign": plain(torch.sign),
        "Sin": plain(torch.sin),
        "Softmax": lambda node, values: torch.softmax(values[0], attribute(node, "axis", -1)),
        "Sqrt": plain(torch.sqrt),
        "Softplus": plain(F.softplus),
        "Sub": plain(torch.sub),
        "Sum": every(torch.add),
        "Tanh": plain(torch.tanh),
        "Where": plain(torch.where),
        "Xor": plain(torch.logical_xor),
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
        raise StepError(f"the node '{node.name}' pads its two sides differently.", hint=shapes.HINT)
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
        raise StepError(f"the node '{node.name}' pads by itself (auto_pad).", hint=shapes.HINT)
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
        None if low is None else low.item(), None if high is None else high.item()
    )
    return found


def _divide(node: NodeProto, values: Values) -> torch.Tensor:
    import torch

    whole = not values[0].is_floating_point()
    return torch.div(*values, rounding_mode="trunc" if whole else None)


def _is_infinite(node: NodeProto, values: Values) -> torch.Tensor:
    found: torch.Tensor = values[0].isinf()
    for sign, wanted in ((1, "detect_positive"), (-1, "detect_negative")):
        if not attribute(node, wanted, 1):
            found = found & (values[0].sign() != sign)
    return found


def _cast(node: NodeProto, values: Values) -> torch.Tensor:
    import torch
    from onnx import helper

    wanted = helper.tensor_dtype_to_np_dtype(attribute(node, "to", 1))
    found: torch.Tensor = values[0].to(getattr(torch, str(wanted)))
    return found


def _reduced(function: Callable[..., torch.Tensor]) -> Function:
    """A reduction over the given axes, all without any; function(x, axes, keep)."""

    def reduce(node: NodeProto, values: Values) -> torch.Tensor:
        x: torch.Tensor = values[0]
        axes = axes_of(node, values)
        if not axes:
            if attribute(node, "noop_with_empty_axes", 0):
                return x
            axes = list(range(x.ndim))
        return function(x, axes, bool(attribute(node, "keepdims", 1)))

    return reduce
