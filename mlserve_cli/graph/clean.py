"""What an ONNX file may say of where it was made: nothing. The same model gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

LIMIT_BYTES = 1_900_000_000
"""Protobuf refuses 2 GB; weights over this go into one file beside the model."""


def strip(model: onnx.ModelProto) -> None:
    """Take out stack traces, paths, doc strings and types of inner values, in place.

    Exporters keep the lines of the user's source, with their paths, at every node. They would leak
    into every copy of the model, and make its digest differ from machine to machine.
    """
    model.doc_string = ""
    del model.metadata_props[:]
    _strip_graph(model.graph)
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _strip_nodes(function.node)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write the model as one file, or with `<name>.data` beside it when it is over the limit.

    Both forms hold the same bytes for the same model.
    """
    import onnx

    if model.ByteSize() <= LIMIT_BYTES:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=path.name + ".data",
    )


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]  # ONNX Runtime infers them again, and they double a small file
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    _strip_nodes(graph.node)


def _strip_nodes(nodes: list[onnx.NodeProto]) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.HasField("g"):
                _strip_graph(attribute.g)
            for graph in attribute.graphs:
                _strip_graph(graph)
