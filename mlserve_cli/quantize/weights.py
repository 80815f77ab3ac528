"""Constant weights of a graph: finding, reading, and replacing them; and what int8 makes of them.

A weight that several nodes share is never changed in place: the node that wants another one gets
a tensor of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


class Weights:
    """The initializers of a model's graph, by name."""

    def __init__(self, model: ModelProto) -> None:
        self._graph: GraphProto = model.graph
        self._by_name = {item.name: item for item in self._graph.initializer}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def array(self, name: str) -> Array:
        """The values of the initializer `name`."""
        from onnx import numpy_helper

        found: Array = numpy_helper.to_array(self._by_name[name])
        return found

    def is_float(self, name: str) -> bool:
        """Whether it is an initializer of float32."""
        return name in self._by_name and self._by_name[name].data_type == 1  # TensorProto.FLOAT

    def add(self, array: Array, name: str) -> str:
        """Add an initializer; a name that is taken gets a number behind it."""
        from onnx import numpy_helper

        free, count = name, 1
        while free in self._by_name:
            count += 1
            free = f"{name}_{count}"
        tensor = numpy_helper.from_array(array, free)
        self._graph.initializer.append(tensor)
        self._by_name[free] = self._graph.initializer[-1]
        return free

    def drop_unused(self) -> None:
        """Take out the initializers that no node and no branch reads any more."""
        used = names_read(self._graph) | {item.name for item in self._graph.output}
        kept = [item for item in self._graph.initializer if item.name in used]
        if len(kept) == len(self._graph.initializer):
            return
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del self._graph.initializer[:]
        self._graph.initializer.extend(copies)
        self._by_name = {item.name: item for item in self._graph.initializer}


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    from onnx import helper

    return next(
        (helper.get_attribute_value(item) for item in node.attribute if item.name == name), default
    )


def channel_axis(node: NodeProto) -> int:
    """The axis of a Conv's, Gemm's or MatMul's weight that counts its outputs."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return -1


def rounded(weight: Array, axis: int, *, reduce_range: bool = False) -> Array:
    """What int8 leaves of a float weight: symmetric, one scale an output channel, as it is written.

    With `reduce_range` levels go from -64 to 64, else from -127 to 127.
    """
    levels = 64 if reduce_range else 127
    weight = weight.astype(np.float64)
    others = tuple(each for each in range(weight.ndim) if each != axis % weight.ndim)
    largest = np.abs(weight).max(axis=others, keepdims=True, initial=0.0)
    scale = np.where(largest > 0, largest / levels, 1.0)
    nearest: Array = (np.clip(np.round(weight / scale), -levels, levels) * scale).astype(np.float32)
    return nearest


def names_read(graph: GraphProto) -> set[str]:
    """The tensors that the nodes of a graph read, those in branches and loops included."""
    names: set[str] = set()
    for node in graph.node:
        names.update(node.input)
        for item in node.attribute:
            for inner in ([item.g] if item.HasField("g") else []) + list(item.graphs):
                names |= names_read(inner) | {each.name for each in inner.output}
    return names
