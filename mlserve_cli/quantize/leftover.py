"""What stays in float, by name and with the reason, so that nobody has to guess."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlserve_cli.graph.kernels import FLOAT
from mlserve_cli.quantize.weights import Weights

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from mlserve_cli.quantize.selection import Selection

COSTLY = FLOAT | {"GRU", "RNN", "Einsum"}

SHOWN = 4
"""Names in a sentence; the evidence has them all."""


@dataclass(frozen=True, slots=True)
class Left:
    """A costly node that stays in float, and why."""

    node: str
    operator: str
    reason: str


def find(model: ModelProto, selection: Selection) -> list[Left]:
    """The costly nodes of a prepared model that are not among those chosen."""
    weights = Weights(model)
    chosen = set(selection.nodes)
    found = []
    for node in model.graph.node:
        for inner in _inside(node):
            reason = f"it lies inside {node.op_type} '{node.name}'"
            found.append(Left(inner.name or inner.output[0], inner.op_type, reason))
        if node.op_type in COSTLY and node.name not in chosen:
            found.append(Left(node.name, node.op_type, _reason(node, weights)))
    return found


def sentences(left: Sequence[Left]) -> Iterator[str]:
    """One sentence a reason."""
    reasons: dict[str, list[Left]] = {}
    for item in left:
        reasons.setdefault(item.reason, []).append(item)
    for reason, items in reasons.items():
        names = ", ".join(f"{item.operator} '{item.node}'" for item in items[:SHOWN])
        more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
        yield f"left in float: {names}{more}: {reason}."


def _reason(node: NodeProto, weights: Weights) -> str:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return f"ONNX Runtime has no static int8 kernel for {node.op_type}"
    weight = node.input[1]
    if weights.is_float(weight):
        if node.op_type == "MatMul" and weights.array(weight).ndim != 2:
            return "its weight is a stack of matrices"
        return "it was excluded"
    if weight in weights:
        return "its weight is not float32"
    if node.op_type == "MatMul":
        return "both sides are activations"
    return "its weight is computed while the model runs"


def _inside(node: NodeProto) -> Iterable[NodeProto]:
    """The costly nodes in the branches and loop bodies of a node."""
    for item in node.attribute:
        for graph in ([item.g] if item.HasField("g") else []) + list(item.graphs):
            for inner in graph.node:
                if inner.op_type in COSTLY:
                    yield inner
                yield from _inside(inner)
