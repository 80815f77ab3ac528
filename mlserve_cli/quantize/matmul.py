"""A Gemm with a constant weight, written as a MatMul and an Add: some kernels know only these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserve_cli.quantize.weights import Weights, attribute

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def unfuse(model: ModelProto) -> None:
    """Replace each Gemm of a float weight in the graph, in place; the MatMul keeps its name."""
    weights = Weights(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        plain = node.op_type == "Gemm" and not attribute(node, "transA", 0)
        nodes += _unfused(node, weights) if plain and weights.is_float(node.input[1]) else [node]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    weights.drop_unused()


def _unfused(node: NodeProto, weights: Weights) -> list[NodeProto]:
    from onnx import helper

    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    added = len(node.input) > 2 and node.input[2] != ""
    if added and beta != 1.0 and not weights.is_float(node.input[2]):
        return [node]
    weight = weights.array(node.input[1]) * alpha
    if attribute(node, "transB", 0):
        weight = weight.T
    name = weights.add(weight, node.input[1] + "_matrix")
    if not added:
        return [helper.make_node("MatMul", [node.input[0], name], node.output, name=node.name)]
    bias = node.input[2]
    if beta != 1.0:
        bias = weights.add(weights.array(bias) * beta, bias + "_scaled")
    middle = node.output[0] + "_product"
    return [
        helper.make_node("MatMul", [node.input[0], name], [middle], name=node.name),
        helper.make_node("Add", [middle, bias], node.output, name=node.name + "_bias"),
    ]
