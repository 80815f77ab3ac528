"""Which nodes of a prepared float model are worth running in int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from mlserve_cli.errors import StepError
from mlserve_cli.quantize.weights import names_read

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

HEAVY = ("Conv", "Gemm", "MatMul")
"""Where the time goes, and what ONNX Runtime has int8 kernels for on a CPU."""

CARRIERS = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Concat")
"""What may stand between convolutions without leaving int8, a residual Add above all: in float it
would cost two conversions. Anything else (softmax, normalization, a mask of -inf added to scores)
loses more in accuracy than it wins in time."""

RESHAPES = ("Flatten", "Reshape", "Squeeze", "Transpose")
"""Carriers that only move values: their other inputs are shapes."""

ACTIVATIONS = ("Relu", "Clip")
"""Folded into the product before them: the zero point of an unsigned tensor cuts as they do."""

GREEDY = frozenset(
    {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "HardSigmoid", "Softplus", "Softsign"}
)
"""ONNX Runtime fuses a float Gemm with these before it looks for int8, and then finds none: such a
Gemm must hand over int8."""

RENAMED = "/MatMulAddFusion"
"""What ONNX Runtime appends to the name of a MatMul when it makes a Gemm of it and its bias."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What to quantize.

    nodes: names, in the graph's order.
    tensors: the activations that get a scale: float inputs and outputs of these nodes.
    float_outputs: outputs of Gemm and MatMul that no chosen node takes. They stay in float, which
        the int8 kernels write as fast; logits of 8 bits had two to four times the error.
    """

    nodes: tuple[str, ...]
    tensors: tuple[str, ...]
    float_outputs: frozenset[str]


def select(model: ModelProto, exclude: Sequence[str] = ()) -> Selection:
    """Choose heavy nodes with constant weights, and what lies between convolutions.

    A name in `exclude` (or a pattern such as "*/head/*") stays in float. Raises `StepError` as
    `heavy` does.
    """
    weights = {item.name for item in model.graph.initializer}
    chosen = set(heavy(model, HEAVY, exclude))
    chosen |= _between(model, chosen, weights)
    nodes = [node for node in model.graph.node if node.name in chosen]
    consumers = _consumers(model)
    float_outputs = frozenset(
        node.output[0]
        for node in nodes
        if node.op_type in ("Gemm", "MatMul")
        and not any(
            after.name in chosen or (node.op_type == "Gemm" and after.op_type in GREEDY)
            for after in consumers.get(node.output[0], ())
        )
    )
    tensors = _activations(model, nodes, weights)
    return Selection(
        nodes=tuple(node.name for node in nodes),
        tensors=tuple(name for name in tensors if name not in float_outputs),
        float_outputs=float_outputs,
    )


def heavy(model: ModelProto, operators: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """The names of the nodes of these types that have constant weights, but for `exclude`.

    Raises `StepError` for an exclusion that hits nothing, and when nothing is left.
    """
    ranks = {
        item.name: len(item.dims)
        for item in model.graph.initializer
        if item.data_type == 1  # float32
    }
    found = [
        node.name
        for node in model.graph.node
        if node.op_type in operators
        and len(node.input) > 1
        and node.input[1] in ranks
        # The int8 kernel of a MatMul takes one matrix, no stack of them.
        and (node.op_type != "MatMul" or ranks[node.input[1]] == 2)
    ]
    if not found:
        raise StepError(
            f"there is nothing to quantize: no {', '.join(operators)} has constant weights.",
            hint="int8 is for products with weights that are known when the model is exported",
        )
    for pattern in exclude:
        if not any(_matches(name, pattern) for name in found):
            raise StepError(
                f"'{pattern}' cannot be excluded: no node that would be quantized has that name.",
                hint=f"they are {', '.join(found[:20])}{' …' if len(found) > 20 else ''}",
            )
    left = [name for name in found if not any(_matches(name, each) for each in exclude)]
    if not left:
        raise StepError(
            f"there is nothing left to quantize: all of {', '.join(found[:20])} are excluded.",
            hint="exclude fewer nodes",
        )
    return left


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.removesuffix(RENAMED), pattern)


def _between(model: ModelProto, chosen: set[str], weights: set[str]) -> set[str]:
    """The carriers whose inputs come, directly or through carriers, from chosen nodes."""
    convolved: set[str] = set()  # tensors that are int8 already, and come from a convolution
    products = {
        name: node
        for node in model.graph.node
        if node.name in chosen and node.op_type != "Conv"
        for name in node.output
    }
    consumers = _consumers(model)
    captured = _captured(model)
    found: set[str] = set()
    for node in model.graph.node:  # in topological order
        if node.name in chosen:
            if node.op_type == "Conv":
                convolved.update(node.output)
            continue
        inputs = [name for name in node.input if name and name not in weights]
        if node.op_type in RESHAPES:
            inputs = inputs[:1]
        if not inputs or node.op_type not in (*CARRIERS, *RESHAPES):
            continue
        if node.op_type in ACTIVATIONS and not captured.isdisjoint(node.output):
            continue  # the writer would fold it away, and the branch would read what it cut
        if all(name in convolved for name in inputs):
            convolved.update(node.output)
            found.add(node.name)
        elif node.op_type in ACTIVATIONS and inputs[0] in products:
            # Gemm, Relu, Gemm: one int8 tensor between the products. A MatMul's activation stays
            # in float before anything that computes in float.
            after = consumers.get(node.output[0], ())
            greedy = products[inputs[0]].op_type == "Gemm"
            if greedy or (after and all(each.name in chosen for each in after)):
                found.add(node.name)
    return found


def _captured(model: ModelProto) -> set[str]:
    """The tensors of the graph that branches and loops read by themselves."""
    return {
        name
        for node in model.graph.node
        for item in node.attribute
        for inner in (*([item.g] if item.HasField("g") else []), *item.graphs)
        for name in names_read(inner)
    }


def _consumers(model: ModelProto) -> dict[str, list[NodeProto]]:
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _activations(model: ModelProto, nodes: Sequence[NodeProto], weights: set[str]) -> list[str]:
    """The float32 tensors around these nodes, in the graph's order, each once."""
    import onnx

    graph = model.graph
    types = {
        info.name: info.type.tensor_type.elem_type
        for info in (*graph.input, *graph.value_info, *graph.output)
    }
    names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output))
    return [
        name
        for name in names
        if name and name not in weights and types.get(name) == onnx.TensorProto.FLOAT
    ]
