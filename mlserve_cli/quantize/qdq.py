"""QDQ graphs of other writers, brought to the form whose kernels ONNX Runtime has.

Nothing here changes what a graph computes by more than rounding a bias to 32 bits, except
`scale_outputs`, which adds roundings of 8 bits where there were none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlserve_cli.quantize.calibration.grid import Grid
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.choices import Form
from mlserve_cli.quantize.selection import GREEDY
from mlserve_cli.quantize.weights import Weights, attribute, names_read
from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def settle(model: ModelProto, form: Form) -> ModelProto:
    """A copy with int8 weights as constants, activations of the form's type, biases of int32."""
    import onnx

    settled = onnx.ModelProto()
    settled.CopyFrom(model)
    del settled.graph.value_info[:]  # they name types that change below
    fold_weights(settled)
    recast(settled, np.uint8 if form == "u8s8" else np.int8)
    quantize_biases(settled)
    Weights(settled).drop_unused()
    return settled


def fold_weights(model: ModelProto) -> None:
    """Make constants of weights that the graph would round, clip or transpose each time."""
    weights = Weights(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] in weights:
            continue
        chain = [makers.get(node.input[0])]
        if chain[0] is not None and chain[0].op_type == "Clip":
            chain.append(makers.get(chain[0].input[0]))
        first = chain[-1]
        if (
            first is None
            or first.op_type != "QuantizeLinear"
            or not weights.is_float(first.input[0])
        ):
            continue
        levels = _levels(first, weights)
        if len(chain) == 2 and chain[0] is not None:
            bounds = [weights.array(name) for name in chain[0].input[1:] if name in weights]
            levels = np.clip(levels, *bounds) if len(bounds) == 2 else levels
        node.input[0] = weights.add(levels, first.input[0] + "_levels")
    _fold_transposes(model, weights)
    _drop_unread(model)


def _levels(node: NodeProto, weights: Weights) -> Array:
    """What a QuantizeLinear makes of its constant."""
    value, scale = weights.array(node.input[0]), weights.array(node.input[1])
    zero = weights.array(node.input[2]) if len(node.input) > 2 else np.array(0, np.uint8)
    limits = np.iinfo(zero.dtype)
    shape = [1] * value.ndim
    if scale.ndim:
        shape[attribute(node, "axis", 1)] = -1
    steps = np.rint(value / scale.reshape(shape)) + zero.reshape(shape).astype(np.float32)
    levels: Array = np.clip(steps, limits.min, limits.max).astype(zero.dtype)
    return levels


def _fold_transposes(model: ModelProto, weights: Weights) -> None:
    """Transpose(DequantizeLinear(constant)) → DequantizeLinear(another constant)."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "Transpose" else None
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in weights:
            continue
        levels = weights.array(maker.input[0])
        order = list(attribute(node, "perm", range(levels.ndim)[::-1]))
        axis = attribute(maker, "axis", 1)
        scalar = not weights.array(maker.input[1]).ndim
        del node.attribute[:]
        node.op_type = "DequantizeLinear"
        name = weights.add(np.ascontiguousarray(levels.transpose(order)), maker.input[0] + "_t")
        del node.input[:]
        node.input.extend([name, *maker.input[1:]])
        if not scalar:
            _set_axis(node, order.index(axis))


def _set_axis(node: NodeProto, axis: int) -> None:
    from onnx import helper

    node.attribute.append(helper.make_attribute("axis", axis))


def _drop_unread(model: ModelProto) -> None:
    """Take out nodes whose outputs nothing reads, and then those that only they read."""
    while True:
        read = names_read(model.graph) | {item.name for item in model.graph.output}
        kept = [node for node in model.graph.node if any(name in read for name in node.output)]
        if len(kept) == len(model.graph.node):
            return
        _replace(model, kept)


def recast(model: ModelProto, dtype: type[np.uint8] | type[np.int8]) -> None:
    """Write activations of the other 8-bit type in this one, in place.

    Level and zero point move by 128 together, so that the values stay what they were, to the bit:
    ONNX Runtime's kernels for signed activations are slower than float on x86.
    """
    weights = Weights(model)
    wanted, shift = np.dtype(dtype), 128 if dtype is np.uint8 else -128
    readers = _readers(model)
    moved: set[str] = set()
    for node in model.graph.node:  # in topological order
        if node.op_type == "QuantizeLinear" and len(node.input) > 2:
            others = {each.op_type for each in readers.get(node.output[0], ())}
            if node.input[0] in weights or others - {"DequantizeLinear"}:
                continue
            moved |= _moved(node, weights, wanted, shift)
        elif node.op_type == "DequantizeLinear" and node.input[0] in moved:
            _moved(node, weights, wanted, shift)


def _moved(node: NodeProto, weights: Weights, wanted: np.dtype, shift: int) -> set[str]:
    name = node.input[2]
    if name not in weights:
        return set()
    zero = weights.array(name)
    if zero.dtype == wanted or zero.dtype not in (np.int8, np.uint8):
        return set()
    node.input[2] = weights.add((zero.astype(np.int16) + shift).astype(wanted), name + "_moved")
    return set(node.output)


def quantize_biases(model: ModelProto) -> None:
    """Give Conv and Gemm of int8 their bias in int32, of the scale of their products, in place."""
    from onnx import helper

    weights = Weights(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    before: dict[int, NodeProto] = {}
    for place, node in enumerate(model.graph.node):
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        scales = _scales(node, makers, weights)
        if scales is None or not weights.is_float(node.input[2]):
            continue
        if node.op_type == "Gemm" and attribute(node, "beta", 1.0) != 1.0:
            continue
        bias = weights.array(node.input[2]).astype(np.float64)
        scale = (scales[0] * scales[1]).astype(np.float32).reshape(-1)
        if bias.ndim != 1 or scale.size not in (1, bias.size):
            continue
        limits = np.iinfo(np.int32)
        steps = np.clip(np.rint(bias / scale.astype(np.float64)), limits.min, limits.max)
        name = f"{node.name or node.output[0]}_bias"
        inputs = [
            weights.add(steps.astype(np.int32), name + "_levels"),
            weights.add(scale if scale.size > 1 else scale.reshape(()), name + "_scale"),
        ]
        before[place] = helper.make_node("DequantizeLinear", inputs, [name], name=name)
        if scale.size > 1:
            _set_axis(before[place], 0)
        node.input[2] = name
    _insert(model, {place: [node] for place, node in before.items()})


def _scales(
    node: NodeProto, makers: Mapping[str, NodeProto], weights: Weights
) -> tuple[Array, Array] | None:
    """Of the activation, a scalar, and of the int8 weight; None where it is no int8 product."""
    found = [makers.get(name) for name in node.input[:2]]
    if any(each is None or each.op_type != "DequantizeLinear" for each in found):
        return None
    activation, weight = (each for each in found if each is not None)
    if weight.input[0] not in weights or activation.input[1] not in weights:
        return None
    scale = weights.array(activation.input[1])
    return (scale, weights.array(weight.input[1])) if scale.size == 1 else None


def spare(model: ModelProto, chosen: Collection[str]) -> None:
    """Let nodes that compute in float read the float where there is one, in place.

    chosen: names of the nodes that run in int8. A writer that rounds a tensor rounds it for all its
    readers: the residual Add beside a product then adds what is left after rounding, and pays a
    conversion for it. In an encoder of six layers that was three quarters of the error.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = _readers(model)
    for node in model.graph.node:
        rounding = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if rounding is None or rounding.op_type != "QuantizeLinear":
            continue
        exact = rounding.input[0]
        if exact in makers and makers[exact].name in chosen:
            continue  # an int8 kernel made it, and there is no float
        for reader in readers.get(node.output[0], ()):
            if reader.name not in chosen:
                for position, name in enumerate(reader.input):
                    if name == node.output[0]:
                        reader.input[position] = exact


def unscaled(model: ModelProto) -> list[str]:
    """Outputs of int8 products that are handed on in float where that makes float products of them.

    The kernel of a convolution writes int8 alone; a Gemm would be fused with the activation behind.
    """
    weights = Weights(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = _readers(model)
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or _scales(node, makers, weights) is None:
            continue
        name = node.output[0]
        after = readers.get(name, [])
        if node.op_type == "Gemm" and not any(each.op_type in GREEDY for each in after):
            continue
        if len(after) == 1 and after[0].op_type in ("Relu", "Clip"):
            name = after[0].output[0]  # one kernel with the convolution
            after = readers.get(name, [])
        if any(each.op_type != "QuantizeLinear" for each in after) or not after:
            found.append(name)
    return found


def scale_outputs(model: ModelProto, ranges: Mapping[str, Range]) -> None:
    """Round each of these tensors to unsigned 8 bits before anything reads it, in place.

    An output of the graph keeps its name, and becomes what is left after rounding.
    """
    from onnx import helper

    weights = Weights(model)
    outputs = {item.name for item in model.graph.output}
    readers = _readers(model)
    inserted: dict[int, list[NodeProto]] = {}
    for place, maker in enumerate(list(model.graph.node)):
        for index, name in enumerate(maker.output):
            if name not in ranges:
                continue
            grid = Grid.over(ranges[name])
            exact, nearest = name, name + "_nearest"
            if name in outputs:
                exact, nearest = name + "_exact", name
                maker.output[index] = exact
            else:
                for reader in readers.get(name, ()):
                    for position, each in enumerate(reader.input):
                        if each == name:
                            reader.input[position] = nearest
            scale = weights.add(np.array(grid.scale, np.float32), name + "_scale")
            zero = weights.add(np.array(grid.zero, np.uint8), name + "_zero")
            levels = name + "_levels"
            inserted[place + 1] = [
                helper.make_node("QuantizeLinear", [exact, scale, zero], [levels], name=levels),
                helper.make_node(
                    "DequantizeLinear", [levels, scale, zero], [nearest], name=levels + "_back"
                ),
            ]
    _insert(model, inserted)


def _readers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each tensor."""
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _insert(model: ModelProto, before: Mapping[int, Sequence[NodeProto]]) -> None:
    """Put nodes before those at these places, which are counted as they are now."""
    nodes: list[NodeProto] = []
    for place, node in enumerate(model.graph.node):
        nodes += [*before.get(place, ()), node]
    nodes += before.get(len(model.graph.node), ())
    _replace(model, nodes)


def _replace(model: ModelProto, nodes: Iterable[NodeProto]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
