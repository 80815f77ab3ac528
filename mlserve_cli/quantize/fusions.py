"""What ONNX Runtime fuses to its loss, written so that it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserve_cli.quantize.weights import Weights

if TYPE_CHECKING:
    from onnx import ModelProto


def part_residuals(model: ModelProto) -> None:
    """Write the Add before a LayerNormalization as a Sum of two, in place.

    ONNX Runtime fuses an Add with it where it knows the shapes. Its kernel for both goes through
    the values one by one, and took three times as long as the vectorized two.
    """
    weights = Weights(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        add = makers.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if add is not None and add.op_type == "Add" and not any(x in weights for x in add.input):
            add.op_type = "Sum"
