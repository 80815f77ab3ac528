"""Equal ways to write a layer, brought to the one that int8 kernels and scales per channel take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserve_cli.quantize.weights import Weights, attribute, channel_axis

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def normalize(model: ModelProto) -> None:
    """Change the graph in place; it computes the same."""
    weights = Weights(model)
    for node in model.graph.node:
        if node.op_type == "Gemm":
            _fold_factors(node, weights)
    _part(model, weights)
    weights.drop_unused()


def _fold_factors(node: NodeProto, weights: Weights) -> None:
    """alpha into the weight, beta into the bias: with either, ONNX Runtime finds no int8 kernel."""
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    biased = len(node.input) > 2 and node.input[2] != ""
    if alpha == beta == 1.0 or not weights.is_float(node.input[1]):
        return
    if biased and beta != 1.0 and not weights.is_float(node.input[2]):
        return
    for index, factor in ((1, alpha), (2, beta)):
        if factor != 1.0 and (index == 1 or biased):
            name = node.input[index]
            node.input[index] = weights.add(weights.array(name) * factor, name + "_scaled")
    kept = [item for item in node.attribute if item.name not in ("alpha", "beta")]
    copies = [type(item).FromString(item.SerializeToString()) for item in kept]
    del node.attribute[:]
    node.attribute.extend(copies)


def _part(model: ModelProto, weights: Weights) -> None:
    """A weight that layers share along other axes, as tied ones do, gets a copy for each axis: a
    scale per output channel can go along one alone."""
    owners: dict[str, int] = {}
    copies: dict[tuple[str, int], str] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not weights.is_float(node.input[1]):
            continue
        name = node.input[1]
        axis = channel_axis(node) % max(weights.array(name).ndim, 1)
        if owners.setdefault(name, axis) != axis:
            if (name, axis) not in copies:
                copies[name, axis] = weights.add(weights.array(name), f"{name}_axis{axis}")
            node.input[1] = copies[name, axis]
