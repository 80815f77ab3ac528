"""ZipMap: a converter's last node, which makes dicts of scores. A server wants the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class Scores:
    """The output that was a sequence of dicts, and the keys that these had, in order."""

    output: str
    labels: tuple[str, ...]


def remove(model: onnx.ModelProto) -> Scores | None:
    """Make each output that is a ZipMap's the matrix (batch, classes) that goes into it.

    Answer the first of them; None where there is none.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    outputs = {value.name: index for index, value in enumerate(graph.output)}
    found = None
    for node in [node for node in graph.node if node.op_type == "ZipMap"]:
        index = outputs.get(node.output[0])
        if index is None:
            continue
        labels = _labels(node)
        graph.output[index].CopyFrom(
            helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [None, len(labels)])
        )
        plain = helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name)
        graph.node.remove(node)
        graph.node.append(plain)
        found = found or Scores(plain.output[0], labels)
    return found


def _labels(node: onnx.NodeProto) -> tuple[str, ...]:
    for attribute in node.attribute:
        if attribute.name == "classlabels_strings" and attribute.strings:
            return tuple(each.decode("utf-8", "replace") for each in attribute.strings)
        if attribute.name == "classlabels_int64s" and attribute.ints:
            return tuple(str(each) for each in attribute.ints)
    return ()
