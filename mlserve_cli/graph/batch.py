"""The batch dimension of a graph: which it is, and calling it "batch"."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

BATCH = "batch"


def name_batch(model: onnx.ModelProto) -> bool:
    """Call the first dimension of the inputs "batch", where they share one name; say if it changed.

    Exporters call it "N", "s18" or "unk__0". Inputs whose first dimensions have different names
    may be of different sizes, so they stay as they are; so does a graph that uses "batch" already.
    """
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    weights = {tensor.name for tensor in model.graph.initializer}
    firsts = {
        value.type.tensor_type.shape.dim[0].dim_param
        for value in model.graph.input
        if value.name not in weights and value.type.tensor_type.shape.dim
    }
    used = {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim}
    if len(firsts) != 1 or "" in firsts or BATCH in used:
        return False
    (old,) = firsts
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == old:
                dim.dim_param = BATCH
    return True
