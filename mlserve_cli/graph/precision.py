"""What a graph computes in, as a variant's name says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_INTEGER_OPERATORS = {
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulNBits",
}


def of(model: onnx.ModelProto) -> str:
    """Say "int8", "fp16", "bf16" or "fp32", by the operators, else by most of the weights."""
    if any(node.op_type in _INTEGER_OPERATORS for node in model.graph.node):
        return "int8"
    sizes: dict[int, int] = {}
    for tensor in model.graph.initializer:
        count = 1
        for size in tensor.dims:
            count *= size
        sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + count
    half = {tensor_type: name for name, tensor_type in (("fp16", 10), ("bf16", 16))}
    floats = {kind: size for kind, size in sizes.items() if kind in (1, 11, *half)}
    most = max(floats, key=lambda kind: floats[kind], default=1)
    return half.get(most, "fp32")
