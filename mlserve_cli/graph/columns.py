"""One matrix input of a model → an input for each of its columns, text among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class MatrixColumn:
    """A column: the input (batch, 1) of this name, and what makes a float32 of it.

    kind: "number" (float32), "integer" (int64), "boolean" or "string".
    categories: each becomes its place in this list, anything else NaN; none: the value itself.
    """

    name: str
    kind: str
    categories: Sequence[Any] = field(default_factory=tuple)


def split(model: onnx.ModelProto, columns: Sequence[MatrixColumn]) -> None:
    """Replace the only input, (batch, columns) float32, by one for each column, in place."""
    import onnx

    types = {
        "number": onnx.TensorProto.FLOAT,
        "integer": onnx.TensorProto.INT64,
        "boolean": onnx.TensorProto.BOOL,
        "string": onnx.TensorProto.STRING,
    }
    graph = model.graph
    (matrix,) = graph.input
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    inner = "matrix"
    while inner in taken or inner in {column.name for column in columns}:
        inner += "_"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == matrix.name:
                node.input[place] = inner
    nodes = []
    parts = []
    for index, column in enumerate(columns):
        part = column.name
        if column.categories:
            part = f"{inner}_{index}"
            nodes.append(_encoder(column, part))
        elif column.kind != "number":
            part = f"{inner}_{index}"
            nodes.append(
                onnx.helper.make_node("Cast", [column.name], [part], to=onnx.TensorProto.FLOAT)
            )
        parts.append(part)
    nodes.append(onnx.helper.make_node("Concat", parts, [inner], axis=1))
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + kept)
    del graph.input[:]
    graph.input.extend(
        onnx.helper.make_tensor_value_info(column.name, types[column.kind], ["batch", 1])
        for column in columns
    )


_KEYS: dict[str, tuple[str, Any]] = {
    "string": ("keys_strings", str),
    "integer": ("keys_int64s", int),
}


def _encoder(column: MatrixColumn, output: str) -> onnx.NodeProto:
    import onnx

    attribute, cast = _KEYS.get(column.kind, ("keys_floats", float))
    keys: dict[str, Any] = {attribute: [cast(each) for each in column.categories]}
    return onnx.helper.make_node(
        "LabelEncoder",
        [column.name],
        [output],
        domain="ai.onnx.ml",
        values_floats=[float(index) for index in range(len(column.categories))],
        default_float=math.nan,
        **keys,
    )
