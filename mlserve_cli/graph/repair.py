"""What foreign exporters leave in a graph, tidied: the answers stay, later steps find their way.

Quantization looks for weights among the initializers, and tells nodes apart by their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    import onnx


def repair(model: onnx.ModelProto) -> list[str]:
    """Tidy the graph in place; say what was done, and nothing where there was nothing to do.

    Constants become initializers, initializers are inputs no longer, every node has a name of its
    own, and what no output depends on is gone.
    """
    graph = model.graph
    done = [
        _told(_from_constants(graph), "constants are initializers now"),
        _told(_not_as_inputs(graph), "weights were listed as inputs"),
        _told(without_dead(graph), "nodes or weights led to no output"),
        _told(_named(graph), "nodes had no name"),
    ]
    return [each for each in done if each]


def tell_apart(model: onnx.ModelProto) -> bool:
    """Give nodes that share a name one of their own; ONNX Runtime loads no file that has such."""
    names = [node.name for node in model.graph.node if node.name]
    if len(set(names)) == len(names):
        return False
    _named(model.graph)
    return True


def _told(count: int, what: str) -> str:
    return f"{count} {what}" if count else ""


def _from_constants(graph: onnx.GraphProto) -> int:
    """Of the main graph alone: a constant in a branch is seen there, and nowhere else."""
    from onnx import numpy_helper

    outputs = {value.name for value in graph.output}
    moved = []
    for node in graph.node:
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            continue
        if len(node.attribute) != 1 or node.output[0] in outputs:
            continue
        attribute = node.attribute[0]
        if attribute.name == "value":
            tensor = attribute.t
        elif attribute.name in _PLAIN:
            values, dtype = _PLAIN[attribute.name], _DTYPES[attribute.name]
            tensor = numpy_helper.from_array(_array(getattr(attribute, values), dtype))
        else:
            continue  # text and sparse tensors may stay
        kept = graph.initializer.add()
        kept.CopyFrom(tensor)
        kept.name = node.output[0]
        moved.append(node)
    for node in moved:
        graph.node.remove(node)
    return len(moved)


_PLAIN = {"value_int": "i", "value_ints": "ints", "value_float": "f", "value_floats": "floats"}
_DTYPES = {
    "value_int": "int64",
    "value_ints": "int64",
    "value_float": "float32",
    "value_floats": "float32",
}


def _array(value: Any, dtype: str) -> Array:
    return np.array(value, dtype=dtype)


def _not_as_inputs(graph: onnx.GraphProto) -> int:
    """IR version 3 listed every weight as an input, which a client could overwrite."""
    weights = {tensor.name for tensor in graph.initializer}
    extra = [value for value in graph.input if value.name in weights]
    if len(extra) == len(graph.input):
        return 0  # a model without inputs is a constant; let others say so
    for value in extra:
        graph.input.remove(value)
    return len(extra)


def without_dead(graph: onnx.GraphProto) -> int:
    """Nodes that no output needs, directly or through a branch, and weights that nobody reads."""
    producers = {name: node for node in graph.node for name in node.output if name}
    needed: set[int] = set()
    read: set[str] = set()
    waiting = [value.name for value in graph.output]
    while waiting:
        name = waiting.pop()
        read.add(name)
        node = producers.get(name)
        if node is None or id(node) in needed:
            continue
        needed.add(id(node))
        waiting += reads(node)
    dead = [node for node in graph.node if id(node) not in needed]
    for node in dead:
        graph.node.remove(node)
    unread = [tensor for tensor in graph.initializer if tensor.name not in read]
    for tensor in unread:
        graph.initializer.remove(tensor)
    return len(dead) + len(unread)


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """All names that a node reads, its branches' too: more than it needs never hurts."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from reads(inner)
            for value in graph.output:
                yield value.name


def _named(graph: onnx.GraphProto) -> int:
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    count = 0
    for node in graph.node:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        base, number = node.name or node.op_type.lower(), 0
        while (name := f"{base}_{number}") in taken or name in seen:
            number += 1
        node.name = name
        seen.add(name)
        count += 1
    return count
