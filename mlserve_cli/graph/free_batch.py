"""A batch of 1 that an exporter baked in, made a size that may differ. The caller proves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserve_cli.graph.batch import BATCH

if TYPE_CHECKING:
    import onnx


def free(model: onnx.ModelProto) -> bool:
    """Call the first dimension of every input and output "batch" where all are 1; say whether.

    A Reshape to a constant shape that begins with 1 takes the size from what it is given. Whether
    the graph then answers each row as before must be tried: a model may well mean its 1.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    values = [value for value in graph.input if value.name not in weights] + list(graph.output)
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_value != 1:
            return False
    for value in values:
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del graph.value_info[:]
    _free_reshapes(graph)
    return True


def _free_reshapes(graph: onnx.GraphProto) -> None:
    from onnx import numpy_helper

    shapes = {
        node.input[1]
        for node in graph.node
        if node.op_type == "Reshape"
        and not any(each.name == "allowzero" and each.i for each in node.attribute)
    }
    others = {
        name
        for node in graph.node
        for index, name in enumerate(node.input)
        if not (node.op_type == "Reshape" and index == 1)
    }
    for tensor in graph.initializer:
        if tensor.name not in shapes - others:
            continue
        shape = numpy_helper.to_array(tensor).copy()
        if shape.ndim != 1 or shape.size < 2 or shape[0] != 1:
            continue
        # 0 copies the size of what is reshaped; -1 is what is left, where nothing else is.
        shape[0] = 0 if -1 in shape else -1
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(shape, name))
