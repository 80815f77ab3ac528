"""Bias correction: the mean error that rounding leaves in each output channel, taken out again.

Rounded weights make outputs that are off on average, since the inputs have a mean: E[W̃ x] ≠ E[W x]
(Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
section 4.2; here in its empirical form, with calibration rows). Each layer stands twice in one
graph, as it is and with its input and weight rounded, both fed by the float model; the difference
of their channel means goes into the bias. So one pass serves all layers, and no layer's correction
hides in another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlserve_cli.quantize.calibration import probe
from mlserve_cli.quantize.calibration.grid import Grid
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.calibration.rows import CalibrationRows
from mlserve_cli.quantize.weights import Weights, attribute, channel_axis, rounded
from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_TWIN = "__rounded"


@dataclass(frozen=True, slots=True)
class Corrected:
    """One layer: the largest correction of a channel, relative to its output's deviation."""

    node: str
    largest: float


@dataclass(slots=True)
class _Mean:
    """A running mean and mean square per channel."""

    total: Array
    squares: Array
    error: Array
    count: int = 0


def correct(
    model: ModelProto,
    nodes: Sequence[str],
    ranges: Mapping[str, Range],
    calibration: CalibrationRows,
    folder: Path,
    *,
    reduce_range: bool = False,
) -> list[Corrected]:
    """Change the biases of the Conv, Gemm and MatMul nodes named, in place; say by how much.

    A MatMul has a bias where an Add of a constant vector is all that reads it; one without stays.
    """
    weights = Weights(model)
    layers = {node.name: node for node in _layers(model, nodes, ranges, weights)}
    biased = {
        name: place for name, node in layers.items() if (place := _bias(model, node, weights))
    }
    layers = {name: node for name, node in layers.items() if name in biased}
    means = _compare(model, list(layers.values()), ranges, calibration, folder, reduce_range)
    done = []
    for name, node in layers.items():
        if name not in means:
            continue
        found = means[name]
        mean = found.total / found.count
        deviation = np.sqrt(np.maximum(found.squares / found.count - mean**2, 1e-30))
        correction = found.error / found.count
        _add_to_bias(node, biased[name], correction.astype(np.float32), weights)
        done.append(Corrected(name, float(np.max(np.abs(correction) / deviation.mean()))))
    weights.drop_unused()
    return done


def _layers(
    model: ModelProto, nodes: Sequence[str], ranges: Mapping[str, Range], weights: Weights
) -> list[NodeProto]:
    wanted = set(nodes)
    return [
        node
        for node in model.graph.node
        if node.name in wanted
        and node.op_type in ("Conv", "Gemm", "MatMul")
        and node.input[0] in ranges
        and weights.is_float(node.input[1])
    ]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bias of a layer stands: input `index` of `node`, or missing and to be added."""

    node: NodeProto
    index: int


def _bias(model: ModelProto, node: NodeProto, weights: Weights) -> _Place | None:
    if node.op_type in ("Conv", "Gemm"):
        if len(node.input) < 3 or not node.input[2]:
            return _Place(node, 2)
        beta = attribute(node, "beta", 1.0) if node.op_type == "Gemm" else 1.0
        held = weights.is_float(node.input[2]) and beta == 1.0
        return _Place(node, 2) if held else None
    readers = [each for each in model.graph.node if node.output[0] in each.input]
    outputs = {item.name for item in model.graph.output}
    if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in outputs:
        return None
    size = weights.array(node.input[1]).shape[-1]
    for index, name in enumerate(readers[0].input):
        if weights.is_float(name) and weights.array(name).shape == (size,):
            return _Place(readers[0], index)
    return None


def _add_to_bias(node: NodeProto, place: _Place, correction: Array, weights: Weights) -> None:
    inputs = place.node.input
    while len(inputs) <= place.index:
        inputs.append("")
    old = inputs[place.index]
    value = correction if not old else weights.array(old) + correction
    inputs[place.index] = weights.add(value, f"{old or node.name}_corrected")


def _compare(
    model: ModelProto,
    layers: Sequence[NodeProto],
    ranges: Mapping[str, Range],
    calibration: CalibrationRows,
    folder: Path,
    reduce_range: bool,
) -> dict[str, _Mean]:
    doubled = _doubled(model, layers, ranges, reduce_range)
    outputs = [name for node in layers for name in (node.output[0], node.output[0] + _TWIN)]
    found: dict[str, _Mean] = {}
    for values, _ in probe.values(doubled, outputs, calibration, folder):
        for node in layers:
            exact = _by_channel(node, values[node.output[0]])
            gap = exact - _by_channel(node, values[node.output[0] + _TWIN])
            size = exact.shape[1]
            item = found.setdefault(
                node.name, _Mean(np.zeros(size), np.zeros(size), np.zeros(size))
            )
            item.total += exact.sum(axis=0)
            item.squares += (exact**2).sum(axis=0)
            item.error += gap.sum(axis=0)
            item.count += len(exact)
    return found


def _by_channel(node: NodeProto, array: Array) -> Array:
    """(values, channels) float64; the channels of a Conv are axis 1."""
    if node.op_type == "Conv":
        array = np.moveaxis(array, 1, -1)
    return array.reshape(-1, array.shape[-1]).astype(np.float64)


def _doubled(
    model: ModelProto,
    layers: Sequence[NodeProto],
    ranges: Mapping[str, Range],
    reduce_range: bool,
) -> ModelProto:
    """The model with a twin of each layer behind it, whose input and weight are rounded."""
    import onnx
    from onnx import helper

    doubled = onnx.ModelProto()
    doubled.CopyFrom(model)
    weights = Weights(doubled)
    inputs: dict[str, str] = {}
    for node in layers:
        tensor = node.input[0]
        if tensor not in inputs:
            grid = Grid.over(ranges[tensor])
            scale = weights.add(np.array(grid.scale, np.float32), tensor + "__scale")
            zero = weights.add(np.array(grid.zero, np.uint8), tensor + "__zero")
            middle, inputs[tensor] = tensor + "__levels", tensor + "__nearest"
            doubled.graph.node.extend(
                (
                    helper.make_node("QuantizeLinear", [tensor, scale, zero], [middle]),
                    helper.make_node("DequantizeLinear", [middle, scale, zero], [inputs[tensor]]),
                )
            )
        nearest = rounded(
            weights.array(node.input[1]), channel_axis(node), reduce_range=reduce_range
        )
        twin = type(node).FromString(node.SerializeToString())
        twin.name = node.name + _TWIN
        twin.input[0] = inputs[tensor]
        twin.input[1] = weights.add(nearest, node.input[1] + _TWIN)
        twin.output[0] = node.output[0] + _TWIN
        doubled.graph.node.append(twin)
    return doubled
