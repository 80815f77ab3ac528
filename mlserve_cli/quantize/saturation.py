"""Where u8 by s8 saturates on x86 without VNNI, and how often.

VNNI's VPDPBUSD adds four products into 32 bits. Without it, VPMADDUBSW multiplies unsigned by
signed bytes and adds each pair of neighbours into 16 bits, with saturation (Intel SDM, PMADDUBSW):
255 · 127 twice is 64,770, and 32,767 is what is kept. The same file is then another model. Pairs
are neighbours along the summed dimension, as ONNX Runtime packs it: the channels in of a product;
for a convolution its channels in innermost, then the kernel's positions. Depthwise convolutions
have a kernel of their own that adds in 32 bits.

No pair can saturate where the weights of one sign in it add up to 128 or less, since
255 · 128 = 32,640. Weights of seven bits (-64 … 64) never can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.quantize.calibration import probe
from mlserve_cli.quantize.calibration.rows import CalibrationRows
from mlserve_cli.quantize.weights import Weights, attribute
from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LARGEST = 32767
SMALLEST = -32768
SAFE_SUM = LARGEST // 255
"""128: what the weights of one sign in a pair may add up to."""

ROWS = 16
VECTORS = 24
"""Of each node's input, drawn from ROWS rows: enough to see shares of a hundredth."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """One node. possible: share of its weight pairs that some input would saturate.
    share: of the pairs of sums that real rows do saturate; 0 where none is possible.
    """

    node: str
    possible: float
    share: float


def analyse(model: ModelProto, calibration: CalibrationRows, folder: Path) -> list[Saturation]:
    """Examine a QDQ model; one result for each node of unsigned activations and signed weights."""
    nodes = list(_nodes(model))
    risky = {item.node.name: item for item in nodes if possible(item.matrices) > 0}
    shares = _shares(model, list(risky.values()), calibration, folder)
    return [
        Saturation(item.node.name, possible(item.matrices), shares.get(item.node.name, 0.0))
        for item in nodes
    ]


def possible(matrices: Array) -> float:
    """The share of neighbouring weights, (groups, k, channels) int8, that could saturate."""
    first, second = _pairs(matrices)
    up = np.maximum(first, 0) + np.maximum(second, 0)
    down = np.minimum(first, 0) + np.minimum(second, 0)
    # 255 · 129 = 32,895 is too much upwards; downwards there is room for one more: 32,768.
    over = (up > SAFE_SUM) | (down * 255 < SMALLEST)
    return float(np.mean(over)) if over.size else 0.0


def share(levels: Array, matrix: Array) -> float:
    """The share of pair sums that leave 16 bits: levels (n, k) uint8, matrix (k, channels) int8."""
    first, second = _pairs(matrix)
    even, odd = _pairs(levels.T)
    over = 0
    for left, right in zip(even.T, odd.T, strict=True):  # a vector at a time bounds memory
        sums = left[:, None] * first + right[:, None] * second
        over += int(np.count_nonzero((sums > LARGEST) | (sums < SMALLEST)))
    return over / max(first.size * len(levels), 1)


def emulate(levels: Array, matrix: Array) -> Array:
    """The product as a CPU without VNNI computes it: (n, k) uint8 by (k, channels) int8 → int32.

    Pairs are added with saturation to 16 bits, the pairs' sums exactly.
    """
    first, second = _pairs(matrix)
    even, odd = _pairs(levels.T)
    result = np.empty((len(levels), matrix.shape[1]), np.int32)
    for row, (left, right) in enumerate(zip(even.T, odd.T, strict=True)):
        sums = left[:, None] * first + right[:, None] * second
        result[row] = np.clip(sums, SMALLEST, LARGEST).sum(axis=0)
    return result


def _pairs(array: Array) -> tuple[Array, Array]:
    """Neighbours along the second axis from the end, as int32; an odd one is paired with zero."""
    wide = array.astype(np.int32)
    if wide.shape[-2] % 2:
        wide = np.concatenate([wide, np.zeros_like(wide[..., :1, :])], axis=-2)
    return wide[..., 0::2, :], wide[..., 1::2, :]


@dataclass(frozen=True, slots=True)
class _Node:
    """A product: its levels' tensor (uint8) and its weight as (groups, k, channels) int8."""

    node: NodeProto
    levels: str
    matrices: Array


def _nodes(model: ModelProto) -> Iterator[_Node]:
    weights = Weights(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        activation, weight = (makers.get(name) for name in node.input[:2])
        if activation is None or weight is None:
            continue
        if {activation.op_type, weight.op_type} != {"DequantizeLinear"}:
            continue
        if weight.input[0] not in weights or len(activation.input) < 3:
            continue
        array = weights.array(weight.input[0])
        unsigned = (
            activation.input[2] in weights and weights.array(activation.input[2]).dtype == np.uint8
        )
        if array.dtype == np.int8 and unsigned and not _is_depthwise(node, array):
            yield _Node(node, activation.input[0], _matrices(node, array))


def _is_depthwise(node: NodeProto, weight: Array) -> bool:
    return node.op_type == "Conv" and attribute(node, "group", 1) > 1 and weight.shape[1] == 1


def _matrices(node: NodeProto, weight: Array) -> Array:
    if node.op_type == "Conv":  # (out, in / group, *kernel) → kernel's positions, then channels
        groups = attribute(node, "group", 1)
        split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        inner = np.moveaxis(split, 2, -1).reshape(groups, split.shape[1], -1)
        return inner.transpose(0, 2, 1)
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        weight = weight.T
    return weight.reshape(1, *weight.shape) if weight.ndim == 2 else weight


def _shares(
    model: ModelProto, nodes: list[_Node], calibration: CalibrationRows, folder: Path
) -> dict[str, float]:
    from onnx import TensorProto

    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    names = sorted({item.levels for item in nodes})
    for values, _ in probe.values(
        model, names, calibration, folder, limit_rows=ROWS, type=TensorProto.UINT8
    ):
        for item in nodes:
            for vectors, matrix in _inputs(item, values[item.levels], random):
                found.setdefault(item.node.name, []).append(share(vectors, matrix))
    return {name: float(np.mean(each)) for name, each in found.items()}


def _inputs(
    item: _Node, levels: Array, random: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """Some of the vectors that a node multiplies with each of its matrices."""
    if item.node.op_type == "Conv":
        yield from _patches(item, levels, random)
        return
    if item.node.op_type == "Gemm" and attribute(item.node, "transA", 0):
        levels = levels.T
    if levels.shape[-1] != item.matrices.shape[1]:
        return
    vectors = levels.reshape(-1, levels.shape[-1])
    chosen = random.integers(0, len(vectors), min(VECTORS, len(vectors)))
    yield vectors[chosen], item.matrices[int(random.integers(len(item.matrices)))]


def _patches(
    item: _Node, levels: Array, random: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """Patches of the inside of the picture: padding holds the zero point, which saturates less."""
    groups, k, _ = item.matrices.shape
    inside = levels.shape[1] // groups
    spatial = levels.ndim - 2
    kernel = attribute(item.node, "kernel_shape", None) or _kernel(k, inside, spatial)
    dilations = attribute(item.node, "dilations", None) or [1] * spatial
    spans = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilations, strict=True)]
    room = [size - span + 1 for size, span in zip(levels.shape[2:], spans, strict=True)]
    if min(room, default=0) < 1:
        return
    group = int(random.integers(groups))
    vectors = []
    for _ in range(VECTORS):
        row = int(random.integers(len(levels)))
        starts = [int(random.integers(each)) for each in room]
        window: tuple[Any, ...] = tuple(
            slice(start, start + span, gap)
            for start, span, gap in zip(starts, spans, dilations, strict=True)
        )
        place: Any = (row, slice(group * inside, (group + 1) * inside), *window)
        patch = levels[place]
        vectors.append(np.moveaxis(patch, 0, -1).ravel())
    yield np.stack(vectors), item.matrices[group]


def _kernel(k: int, inside: int, spatial: int) -> list[int]:
    return [round((k // inside) ** (1 / spatial))] * spatial
