"""Self-attention of an int8 model as one operator, ONNX Runtime's QAttention.

The three projections of an attention read the same rounded activation; the operator multiplies it
once, by their joined int8 weights, and goes on by heads in float, as the dozen nodes did. Nothing
is rounded that was not rounded before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.graph import clean, fusion
from mlserve_cli.graph.attention import Attention, Finder, biases, replace
from mlserve_cli.package.package import Package
from mlserve_cli.quantize import result
from mlserve_cli.quantize.weights import Weights, attribute
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.measuring import tiled
from mlserve_cli.runtime.tensors import Array, Tensors

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

HIDDEN = -1e4
"""A mask holds zeros and numbers below this one, which leave nothing of a score. The operator takes
which are which, and adds this number itself."""

BATCHES = 3
"""Of calibration rows, on which the two are compared."""

SIZES = (1, 8)
"""Where the gates compare the speed, if nothing else is asked for."""

SHARE = 0.02
"""Of the rows may be answered otherwise: where a float sum in another order falls to the other side
of a rounding, a tie may be decided the other way."""


def fused(
    model: ModelProto, rows: Iterable[Tensors], folder: Path, *, timed: Sequence[Tensors] = ()
) -> tuple[ModelProto, int]:
    """The model with its attentions fused, and how many; as it is where the answers would differ.

    `rows` are batches to compare on, at batch 1, 2 and 7; `folder` is for files on the way.
    timed: batches on which it must be no slower either; none where that does not matter.
    """
    import onnx

    if model.ByteSize() > clean.LIMIT_BYTES:
        return model, 0
    candidate = onnx.ModelProto()
    candidate.CopyFrom(model)
    count = fuse(candidate)
    if not count:
        return model, 0
    before, after = folder / "apart.onnx", folder / "fused.onnx"
    clean.save(model, before)
    clean.save(candidate, after)
    some = list(islice(rows, BATCHES))
    agree = fusion.agrees(before, after, some, tolerance=result.TOLERANCE, share=SHARE)
    if agree and timed:
        agree = fusion.is_quick(before, after, timed)
    return (candidate, count) if agree else (model, 0)


def usual(parent: Package) -> list[Tensors]:
    """Golden rows of a package, in the batches that its speed is judged by: one row, and eight."""
    inputs = golden.read(parent.serve).inputs
    fixed, most = parent.manifest.fixed_batch, parent.manifest.batch.max_batch
    sizes = [fixed] if fixed else sorted({min(size, most or size) for size in SIZES})
    return [tiled(inputs, size) for size in sizes]


def fuse(model: ModelProto) -> int:
    """Fuse each attention whose projections are int8, in place; say how many there were."""
    writer = _Writer(model)
    for found in Finder(model, writer.columns, writer.source).all():
        writer.add(found)
    replace(model, writer.made, writer.masks)
    Weights(model).drop_unused()
    return len(writer.made)


class _Writer:
    """The nodes that take the places of attentions."""

    def __init__(self, model: ModelProto) -> None:
        self._weights = Weights(model)
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self.columns = {
            node.output[0]: self._weights.array(node.input[0]).shape[1]
            for node in model.graph.node
            if node.op_type == "DequantizeLinear" and self._is_matrix(node)
        }
        self.made: dict[str, list[NodeProto]] = {}
        self.masks: list[NodeProto] = []
        self._named: dict[str, str] = {}

    def _is_matrix(self, node: NodeProto) -> bool:
        """Whether it is a constant int8 matrix with a scale for each column, or one for all."""
        if node.input[0] not in self._weights or node.input[1] not in self._weights:
            return False
        levels, scale = self._weights.array(node.input[0]), self._weights.array(node.input[1])
        zero = len(node.input) > 2 and self._weights.array(node.input[2]).any()
        by_column = scale.size == 1 or attribute(node, "axis", 1) in (1, -1)
        return levels.dtype == np.int8 and levels.ndim == 2 and not zero and by_column

    def source(self, product: NodeProto) -> str:
        """The rounded tensor that it multiplies, before it became rows; empty if there is none."""
        rounding = self._makers.get(product.input[0])
        if rounding is None or rounding.op_type != "DequantizeLinear" or len(rounding.input) < 3:
            return ""
        rows = self._makers.get(rounding.input[0])
        if rows is not None and rows.op_type == "Flatten":
            return str(rows.input[0])
        return str(rounding.input[0])

    def add(self, found: Attention) -> None:
        """Write one; leave it as it is where its input is not rounded, or its mask is none."""
        from onnx import helper

        product = found.parts[0].product
        grid = list(self._makers[product.input[0]].input[1:]) if found.source else []
        added = [self._bias(part.bias) for part in found.parts]
        if (
            len(grid) != 2
            or any(self._number(name) is None for name in grid)
            or any(isinstance(each, str) for each in added)
        ):
            return
        mask = self._mask(found.mask, found.source) if found.mask else ""
        if mask is None:
            return
        number = len(self.made)
        levels, scales = zip(
            *(self._levels(part.product.input[1]) for part in found.parts), strict=True
        )
        name = f"attention_{number}"
        joined = np.concatenate(levels, axis=1)
        inputs = [
            found.source,
            self._weights.add(joined, f"{name}_weight"),
            self._weights.add(biases(added, found.width), f"{name}_bias"),
            grid[0],
            self._weights.add(np.concatenate(scales), f"{name}_scale"),
            mask,
            grid[1],
            self._weights.add(np.zeros(joined.shape[1], np.int8), f"{name}_zero"),
        ]
        output = found.last.output[0]
        self.made[output] = [
            helper.make_node(
                "QAttention",
                inputs,
                [output],
                name=name,
                domain="com.microsoft",
                num_heads=found.heads,
                scale=found.scale,
                mask_filter_value=HIDDEN,
            )
        ]

    def _bias(self, name: str | None) -> Array | str | None:
        """Its values, also where they are written in steps; empty where they are no constant."""
        if name is None or name in self._weights:
            return self._weights.array(name) if name else None
        node = self._makers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or len(node.input) != 2:
            return ""
        if not all(each in self._weights for each in node.input):
            return ""
        steps, scale = (self._weights.array(each) for each in node.input)
        values: Array = (steps.astype(np.float64) * scale).astype(np.float32)
        return values

    def _levels(self, name: str) -> tuple[Array, Array]:
        node = self._makers[name]
        levels, scale = (self._weights.array(each) for each in node.input[:2])
        return levels, np.broadcast_to(scale.reshape(-1), levels.shape[1]).astype(np.float32)

    def _mask(self, added: str, rounded: str) -> str | None:
        """Which scores count, (batch, length, length) int32; None where something else is added.

        added: Where(which, 0, far below), or the other way about.
        """
        if added in self._named:
            return self._named[added]
        node = self._makers.get(added)
        if node is None or node.op_type != "Where":
            return None
        values = [self._number(name) for name in node.input[1:]]
        if None in values or 0.0 not in values or min(filter(None, values), default=0.0) > HIDDEN:
            return None
        name = f"attention_mask_{len(self._named)}"
        which = node.input[0]
        if values[0] != 0.0:
            which = self._node("Not", [which], f"{name}_other")
        numbers = {
            text: self._weights.add(np.array([value], np.int64), f"{name}_{text}")
            for text, value in (("zero", 0), ("one", 1), ("two", 2))
        }
        shape = self._node("Shape", [rounded], f"{name}_shape")
        batch = self._node("Slice", [shape, numbers["zero"], numbers["one"]], f"{name}_batch")
        length = self._node("Slice", [shape, numbers["one"], numbers["two"]], f"{name}_length")
        sizes = [batch, numbers["one"], length, length]
        whole = self._node("Concat", sizes, f"{name}_sizes", axis=0)
        spread = self._node("Expand", [which, whole], f"{name}_spread")
        lone = self._node("Squeeze", [spread, numbers["one"]], f"{name}_lone")
        self._named[added] = self._node("Cast", [lone], name, to=6)  # TensorProto.INT32
        return self._named[added]

    def _number(self, name: str) -> float | None:
        if name not in self._weights or self._weights.array(name).size != 1:
            return None
        return float(self._weights.array(name).reshape(()))

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.masks.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output
