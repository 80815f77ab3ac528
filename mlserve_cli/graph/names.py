"""Names of a graph's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlserve_cli.errors import StepError

if TYPE_CHECKING:
    import onnx


def rename_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give the graph's outputs these names, in their order, wherever the values are used.

    Inner values that have such a name already get another. Raises `StepError` when the number of
    names is another, or one is an input's.
    """
    graph = model.graph
    if len(names) != len(graph.output):
        raise StepError(
            f"the model has {len(graph.output)} outputs, and {len(names)} names were given: "
            f"{', '.join(names)}."
        )
    taken = {value.name for value in (*graph.input, *graph.initializer)}
    for name in names:
        if name in taken:
            raise StepError(f"an output cannot be called '{name}': an input or weight is.")
    wanted = dict(zip((value.name for value in graph.output), names, strict=True))
    inner = {name for node in graph.node for name in node.output} - set(wanted)
    moved = {name: f"{name}_inner" for name in names if name in inner}
    _rename(graph, moved | wanted)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for value in graph.output:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for side in (node.input, node.output):
            for index, name in enumerate(side):
                if name in names:
                    side[index] = names[name]
        for attribute in node.attribute:  # branches and loops see the values around them
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names)
