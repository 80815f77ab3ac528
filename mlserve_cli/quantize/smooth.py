"""SmoothQuant: outliers of a few activation channels, moved into the weights that they meet.

Transformers have channels a hundred times as large as the rest, and one scale for all of them
leaves the rest a handful of steps. With a factor s per channel, X W = (X / s) (s W) in exact
arithmetic, and both sides are easier to round (Xiao et al., "SmoothQuant", ICML 2023):
s = max|X|^alpha / max|W|^(1 - alpha). Here alpha is searched for each group of products that share
an input, by the error of their outputs on calibration rows; where none helps, nothing is changed.

1/s goes into the LayerNormalization or the Mul before, where every reader of the tensor is one of
these products; else a Mul is inserted, for which a group must gain more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlserve_cli.quantize.calibration import probe
from mlserve_cli.quantize.calibration.grid import Grid
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.calibration.rows import CalibrationRows
from mlserve_cli.quantize.weights import Weights, attribute, rounded
from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
VECTORS = 512
"""Of each input, to measure the error with: memory is VECTORS × channels for each group."""

NEGLIGIBLE = 1e-4
"""Relative squared error that is left alone: one percent of the outputs' root mean square."""

GAIN_FOLDED = 0.98
"""Of the error without it: what must be left where the factor costs nothing …"""

GAIN_INSERTED = 0.8
"""… and where it costs a Mul at every request."""


@dataclass(frozen=True, slots=True)
class Smoothed:
    """One group: its products, the alpha that was chosen, and the relative squared error of
    their outputs without and with it. folded: into which node; empty where a Mul was inserted."""

    nodes: tuple[str, ...]
    alpha: float
    before: float
    after: float
    folded: str


@dataclass(slots=True)
class _Input:
    """What was seen of one tensor: extremes per channel, and some of its vectors."""

    low: Array
    high: Array
    vectors: list[Array]


def smooth(
    model: ModelProto,
    nodes: Sequence[str],
    calibration: CalibrationRows,
    folder: Path,
    *,
    reduce_range: bool = False,
) -> list[Smoothed]:
    """Change `model` in place for the MatMul and Gemm nodes named; say what was done."""
    weights = Weights(model)
    groups = _groups(model, nodes, weights)
    seen = _observe(model, list(groups), calibration, folder)
    done = []
    for tensor, members in groups.items():
        found = seen.get(tensor)
        matrices = [_matrix(node, weights) for node in members]
        if found is None or any(len(found.low) != len(matrix) for matrix in matrices):
            continue
        joined = np.concatenate(matrices, axis=1)
        alpha, before, after = _best(found, joined, reduce_range)
        target = _absorber(model, tensor, members, weights)
        if alpha is None or before < NEGLIGIBLE:
            continue
        if after > before * (GAIN_FOLDED if target else GAIN_INSERTED):
            continue
        factor = _factor(found, joined, alpha)
        for node in members:
            _scale_rows(node, factor, weights)
        if target is None:
            _insert(model, tensor, members, factor, weights)
        else:
            _absorb(target, factor, weights)
        names = tuple(node.name for node in members)
        done.append(Smoothed(names, alpha, before, after, target.name if target else ""))
    weights.drop_unused()
    return done


def _groups(
    model: ModelProto, nodes: Sequence[str], weights: Weights
) -> dict[str, list[NodeProto]]:
    wanted = set(nodes)
    groups: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        if node.name not in wanted or node.op_type not in ("MatMul", "Gemm"):
            continue
        plain = not attribute(node, "transA", 0)
        if plain and weights.is_float(node.input[1]) and node.input[0] not in weights:
            groups.setdefault(node.input[0], []).append(node)
    return {
        name: members
        for name, members in groups.items()
        if all(weights.array(node.input[1]).ndim == 2 for node in members)
    }


def _matrix(node: NodeProto, weights: Weights) -> Array:
    """The weight as (channels in, channels out)."""
    matrix = weights.array(node.input[1])
    return matrix.T if attribute(node, "transB", 0) else matrix


def _observe(
    model: ModelProto, tensors: Sequence[str], calibration: CalibrationRows, folder: Path
) -> dict[str, _Input]:
    found: dict[str, _Input] = {}
    for values, count in probe.values(model, tensors, calibration, folder):
        share = max(1, VECTORS * count // calibration.count)
        for name, array in values.items():
            if not array.size:
                continue
            vectors = array.reshape(-1, array.shape[-1])
            low, high = vectors.min(axis=0), vectors.max(axis=0)
            chosen = np.unique(np.linspace(0, len(vectors) - 1, share).astype(int))
            kept = vectors[chosen].copy()  # a view would keep the whole array
            if name in found:
                item = found[name]
                item.low, item.high = np.minimum(item.low, low), np.maximum(item.high, high)
                item.vectors.append(kept)
            else:
                found[name] = _Input(low, high, [kept])
    return found


def _factor(found: _Input, matrix: Array, alpha: float) -> Array:
    """s of each channel, (channels in,) float32; 1 for a channel that is always zero."""
    activations = np.maximum(np.abs(found.low), np.abs(found.high)).astype(np.float64)
    weights = np.abs(matrix).max(axis=1).astype(np.float64)
    alive = (activations > 1e-8) & (weights > 1e-8)
    factor = np.ones(len(activations))
    factor[alive] = activations[alive] ** alpha / weights[alive] ** (1 - alpha)
    if alive.any():
        # A common factor changes nothing but sizes: kept around 1, so that no value underflows.
        factor[alive] /= np.exp(np.log(factor[alive]).mean())
    return np.clip(factor, 1e-4, 1e4).astype(np.float32)


def _best(found: _Input, matrix: Array, reduce_range: bool) -> tuple[float | None, float, float]:
    vectors = np.concatenate(found.vectors)
    exact = vectors.astype(np.float64) @ matrix
    energy = max(float(np.mean(exact**2)), 1e-30)

    def error(factor: Array) -> float:
        scaled = Range(float((found.low / factor).min()), float((found.high / factor).max()))
        left = Grid.over(scaled).nearest(vectors / factor)
        right = rounded(matrix * factor[:, None], 1, reduce_range=reduce_range)
        return float(np.mean((left @ right - exact) ** 2)) / energy

    before = error(np.ones(len(matrix), np.float32))
    tried = {alpha: error(_factor(found, matrix, alpha)) for alpha in ALPHAS}
    alpha = min(tried, key=lambda each: tried[each])
    return (alpha, before, tried[alpha]) if tried[alpha] < before else (None, before, before)


def _absorber(
    model: ModelProto, tensor: str, members: Sequence[NodeProto], weights: Weights
) -> NodeProto | None:
    """The node before that can divide by s for nothing, if all readers of `tensor` are members."""
    names = {node.name for node in members}
    readers = [node for node in model.graph.node if tensor in _read(node)]
    if any(item.name == tensor for item in model.graph.output):
        return None
    if any(node.name not in names for node in readers):
        return None
    maker = next((node for node in model.graph.node if tensor in node.output), None)
    if maker is None:
        return None
    if maker.op_type == "LayerNormalization":
        last = attribute(maker, "axis", -1) == -1
        held = all(weights.is_float(name) for name in maker.input[1:] if name)
        return maker if last and held and len(maker.output) == 1 else None
    if maker.op_type == "Mul":
        constants = [name for name in maker.input if weights.is_float(name)]
        size = len(_matrix(members[0], weights))
        fits = [name for name in constants if weights.array(name).shape[-1:] == (size,)]
        return maker if len(fits) == 1 and len(constants) == 1 else None
    return None


def _read(node: NodeProto) -> Iterable[str]:
    """What a node reads, its branches included."""
    yield from node.input
    for item in node.attribute:
        for graph in ([item.g] if item.HasField("g") else []) + list(item.graphs):
            for inner in graph.node:
                yield from _read(inner)
            yield from (each.name for each in graph.output)


def _absorb(node: NodeProto, factor: Array, weights: Weights) -> None:
    for index, name in enumerate(node.input):
        if name and weights.is_float(name):
            node.input[index] = weights.add(weights.array(name) / factor, name + "_smooth")


def _scale_rows(node: NodeProto, factor: Array, weights: Weights) -> None:
    name = node.input[1]
    column = factor if attribute(node, "transB", 0) else factor[:, None]
    node.input[1] = weights.add(weights.array(name) * column, name + "_smooth")


def _insert(
    model: ModelProto, tensor: str, members: Sequence[NodeProto], factor: Array, weights: Weights
) -> None:
    from onnx import helper

    scale = weights.add(1 / factor, tensor + "_smooth_factor")  # the writer takes "_scale"
    output = f"{tensor}_smooth"
    node = helper.make_node("Mul", [tensor, scale], [output], name=output)
    names = {each.name for each in members}
    first = next(index for index, each in enumerate(model.graph.node) if each.name in names)
    for each in members:
        each.input[0] = output
    for value in (*model.graph.value_info, *model.graph.input):
        if value.name == tensor:
            copy = type(value).FromString(value.SerializeToString())
            copy.name = output
            model.graph.value_info.append(copy)
            break
    model.graph.node.insert(first, node)
