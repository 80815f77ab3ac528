"""Why a convolution or a matrix product does not run in int8, as far as the files can tell.

ONNX Runtime renames what it changes, so each node is first led back to the one in the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from mlserve_cli.graph import kernels

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from mlserve_cli.explain.nodes import Node
    from mlserve_cli.runtime.manifest import Manifest

_ADDED = re.compile(r"(_token_\d+|/MatMulAddFusion|/GemmTransposeFusion|_nchwc|_nhwc)+$")
"""What ONNX Runtime appends to the names of nodes that it changes."""

_HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node of the graph that runs comes from. node: its name in the package's file, where
    that is known. why_float: the reason, where it computes in float; else empty."""

    node: str
    why_float: str = ""


def origins(nodes: Iterable[Node], model: ModelProto, manifest: Manifest) -> dict[str, Origin]:
    """The origin of each node, by the name that it runs under.

    nodes: of the graph that runs. model: the package's file, before ONNX Runtime optimized it.
    """
    excluded = excluded_of(manifest)
    written = _Written(model)
    found = {}
    for node in nodes:
        source = written.find(node)
        reason = _reason(source, written, excluded) if node.kind == "float" else ""
        found[node.name] = Origin("" if source is None else source.name, reason)
    return found


def excluded_of(manifest: Manifest) -> tuple[str, ...]:
    """The names and patterns that were left in float on purpose, from the lineage."""
    return tuple(
        str(pattern)
        for record in manifest.lineage
        for pattern in record.parameters.get("exclude", ())
    )


def original(name: str) -> str:
    """A node's name as it stands in the package's file."""
    return _ADDED.sub("", name)


class _Written:
    """The package's file, to be asked for nodes and what their inputs are."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.constants = {item.name for item in graph.initializer}
        self.makers: dict[str, NodeProto] = {}
        for node in graph.node:
            for name in node.output:
                self.makers[name] = node
            if node.op_type == "Constant":
                self.constants.update(node.output)
        self.by_name = {node.name: node for node in graph.node}
        self.quantized = any(
            node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
            for node in graph.node
        )

    def find(self, node: Node) -> NodeProto | None:
        """The node that one of the optimized graph was made of."""
        name = original(node.name)
        found = self.by_name.get(name)
        if found is None:
            outputs = (name, *(original(output) for output in node.outputs))
            found = next((self.makers[each] for each in outputs if each in self.makers), None)
        if found is not None and node.kind not in ("int8", "float"):
            return found if found.op_type == node.operator else None
        # A product that was fused with what follows it has the name of the last of them.
        while found is not None and found.op_type not in kernels.FLOAT and found.input:
            found = self.makers.get(found.input[0])
        return found

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is a weight, as it is or dequantized."""
        maker = self.makers.get(name)
        if maker is not None and maker.op_type in ("DequantizeLinear", "Cast", "Transpose"):
            return self.is_constant(maker.input[0])
        return name in self.constants

    def is_dequantized(self, name: str) -> bool:
        """Whether a tensor comes out of int8."""
        maker = self.makers.get(name)
        return maker is not None and maker.op_type == "DequantizeLinear"


def _reason(found: NodeProto | None, written: _Written, excluded: Sequence[str]) -> str:
    if not written.quantized:
        return "the package is not quantized"
    if found is None:
        return "ONNX Runtime made it by fusing others, and has no int8 form of the result"
    if any(fnmatchcase(found.name, pattern) for pattern in excluded):
        return "it was excluded when the package was quantized"
    if found.op_type not in _HEAVY:
        return f"a {found.op_type} is not quantized"
    data, weight = found.input[0], found.input[1]
    if not written.is_constant(weight) and not written.is_constant(data):
        return "both of its inputs are activations, which lose more in int8 than they win"
    if not written.is_dequantized(data):
        return "it was left in float: its input is not in int8 in the package's file"
    if not written.is_dequantized(weight):
        return "it was left in float: its weight is not in int8 in the package's file"
    return "it is int8 in the package's file, and ONNX Runtime has no kernel that fits on this CPU"
