"""Self-attention that an exporter wrote as a dozen small nodes: found by the shape of its graph.

softmax(scale · (x Wq + bq)(x Wk + bk)ᵀ + mask)(x Wv + bv), by heads (Vaswani et al., 2017).
Exporters differ in where they scale and how they transpose, so the walk from the softmax outwards
is loose about both: whoever writes another operator in its place runs the two side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.graph import opset

if TYPE_CHECKING:
    import onnx

_MOVES = ("Transpose", "Reshape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """x W + b. product: the MatMul or Gemm; bias: the name of what it adds, or nothing."""

    product: onnx.NodeProto
    bias: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One attention. source: what is projected, (batch, length, size).

    parts: query, key and value, of `width` columns each. mask: the tensor that is added to the
    scores. last: the node whose output, (batch, length, width), is that of the whole.
    """

    source: str
    parts: tuple[Projection, Projection, Projection]
    width: int
    heads: int
    scale: float
    mask: str | None
    last: onnx.NodeProto


class Finder:
    """The attentions of a graph.

    columns: of each weight by its name. source: of a product, the tensor of all dimensions that it
    multiplies.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        columns: Mapping[str, int],
        source: Callable[[onnx.NodeProto], str] = lambda product: str(product.input[0]),
    ) -> None:
        self._graph = model.graph
        self._opset = opset.of(model)
        self._columns = columns
        self._source = source
        self._makers = {name: node for node in self._graph.node for name in node.output}
        self._constants = {item.name: item for item in self._graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def all(self) -> list[Attention]:
        """In the order of the graph."""
        softmaxes = [node for node in self._graph.node if node.op_type == "Softmax"]
        return [found for node in softmaxes if (found := self._around(node)) is not None]

    def _around(self, softmax: onnx.NodeProto) -> Attention | None:
        scores, mask = self._unmasked(softmax.input[0])
        scores, scale = self._unscaled(scores)
        product = self._makers.get(scores)
        if product is None or product.op_type != "MatMul":
            return None
        if not self._is_over_keys(softmax, self._rank(product.input[0])):
            return None
        query, factor = self._projection(product.input[0])
        key, other = self._projection(product.input[1])
        together = self._last(softmax)
        if together is None or query is None or key is None:
            return None
        value, last = together
        parts = (query, key, value)
        sources = {self._source(each.product) for each in parts}
        widths = {self._columns[each.product.input[1]] for each in parts}
        size = self._head_size(product.input[0])
        if len(sources) != 1 or len(widths) != 1 or size < 1:
            return None
        (source,), (width,) = sources, widths
        if width % size:
            return None
        return Attention(
            source=source,
            parts=parts,
            width=width,
            heads=width // size,
            scale=scale * factor * other,
            mask=mask,
            last=last,
        )

    def _unmasked(self, name: str) -> tuple[str, str | None]:
        """The scores before something is added to them, and what that is."""
        node = self._makers.get(name)
        if node is None or node.op_type != "Add":
            return name, None
        for scores, mask in (tuple(node.input), tuple(node.input)[::-1]):
            inner = self._makers.get(self._unscaled(scores)[0])
            if inner is not None and inner.op_type == "MatMul":
                return scores, mask
        return name, None

    def _unscaled(self, name: str) -> tuple[str, float]:
        """The tensor before it is multiplied by a number, and the number."""
        node = self._makers.get(name)
        if node is None or node.op_type not in ("Mul", "Div"):
            return name, 1.0
        for index in (1, 0) if node.op_type == "Mul" else (1,):
            number = self._number(node.input[index])
            if number is not None:
                factor = number if node.op_type == "Mul" else 1 / number
                return node.input[1 - index], factor
        return name, 1.0

    def _number(self, name: str) -> float | None:
        array = self._array(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def _array(self, name: str) -> Any:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def _projection(self, name: str) -> tuple[Projection | None, float]:
        """Back over what moves and scales, to x W + b."""
        scale = 1.0
        while (node := self._makers.get(name)) is not None:
            before, factor = self._unscaled(name)
            if before != name:
                name, scale = before, scale * factor
            elif node.op_type in _MOVES:
                name = node.input[0]
            else:
                break
        if node is None:
            return None, scale
        bias = None
        if node.op_type == "Add":
            sides = [each for each in node.input if each in self._constants]
            bias = sides[0] if len(sides) == 1 else None
            others = [each for each in node.input if each != bias]
            node = self._makers.get(others[0]) if bias and len(others) == 1 else None
        if node is not None and node.op_type == "Gemm" and not node.attribute:
            bias = node.input[2] if len(node.input) > 2 else bias
        elif node is None or node.op_type != "MatMul":
            return None, scale
        if node.input[1] not in self._columns:
            return None, scale
        return Projection(product=node, bias=bias), scale

    def _is_over_keys(self, softmax: onnx.NodeProto, rank: int) -> bool:
        """Whether each query's shares add up to 1, which only the last axis of the scores makes.

        rank: of the scores, 0 where it is not known. Before opset 13 the axis is 1 if nothing is
        said, and all from there on is one: over the last axis both mean the same.
        """
        default = -1 if self._opset >= 13 else 1
        axis = next((item.i for item in softmax.attribute if item.name == "axis"), default)
        return axis in (-1, rank - 1)

    def _rank(self, name: str) -> int:
        """How many axes the node says that wrote them: a Transpose, or a Reshape."""
        while (node := self._makers.get(name)) is not None:
            if node.op_type == "Transpose" and node.attribute:
                return len(node.attribute[0].ints)
            if node.op_type == "Reshape":
                shape = self._array(node.input[1])
                return int(shape.size) if shape is not None else 0
            before, _ = self._unscaled(name)
            name = before if before != name else ""
        return 0

    def _head_size(self, name: str) -> int:
        """The last size of the shape that parts the query into heads."""
        while (node := self._makers.get(name)) is not None:
            if node.op_type == "Reshape":
                shape = self._array(node.input[1])
                maker = self._makers.get(node.input[1])
                if shape is None and maker is not None and maker.op_type == "Concat":
                    shape = self._array(maker.input[-1])
                return int(shape.reshape(-1)[-1]) if shape is not None and shape.size else 0
            before, _ = self._unscaled(name)
            name = before if before != name else node.input[0] if node.op_type in _MOVES else ""
        return 0

    def _last(self, softmax: onnx.NodeProto) -> tuple[Projection, onnx.NodeProto] | None:
        """The value's projection, and the Reshape that joins the heads."""
        shares = self._guarded(softmax)
        after = self._readers.get(shares, [])
        product = after[0] if len(after) == 1 else None
        if product is None or product.op_type != "MatMul" or product.input[0] != shares:
            return None
        value, scale = self._projection(product.input[1])
        for operator in _MOVES:
            after = self._readers.get(product.output[0], [])
            if len(after) != 1 or after[0].op_type != operator:
                return None
            product = after[0]
        return (value, product) if value is not None and scale == 1.0 else None

    def _guarded(self, softmax: onnx.NodeProto) -> str:
        """The shares; or, where rows that are masked as a whole are set to zero, what is left."""
        name = softmax.output[0]
        after = self._readers.get(name, [])
        if {node.op_type for node in after} == {"IsNaN", "Where"}:
            chosen = next(node for node in after if node.op_type == "Where")
            return str(chosen.output[0])
        return str(name)


def columns(model: onnx.ModelProto) -> dict[str, int]:
    """The columns of each constant matrix of float32."""
    return {
        item.name: item.dims[1]
        for item in model.graph.initializer
        if len(item.dims) == 2 and item.data_type == 1  # TensorProto.FLOAT
    }


def fuse(model: onnx.ModelProto) -> int:
    """Write each attention as one `com.microsoft` Attention, in place; say how many there were."""
    from onnx import helper, numpy_helper

    arrays = {item.name: item for item in model.graph.initializer}
    replaced = {}
    for number, found in enumerate(Finder(model, columns(model)).all()):
        weights = [numpy_helper.to_array(arrays[part.product.input[1]]) for part in found.parts]
        joined = np.concatenate(weights, axis=1)
        names = [f"attention_{number}_weight", f"attention_{number}_bias"]
        added = [
            numpy_helper.to_array(arrays[part.bias]) if part.bias else None for part in found.parts
        ]
        for name, array in zip(names, (joined, biases(added, found.width)), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        inputs = [found.source, *names, *(("", "", found.mask) if found.mask else ())]
        replaced[found.last.output[0]] = [
            helper.make_node(
                "Attention",
                inputs,
                [found.last.output[0]],
                name=f"attention_{number}",
                domain="com.microsoft",
                num_heads=found.heads,
                scale=found.scale,
            )
        ]
    replace(model, replaced)
    return len(replaced)


def unfuse(model: onnx.ModelProto) -> int:
    """Write each Attention that `fuse` made as the nodes that it stands for, in place.

    What takes only plain nodes (quantization, another engine) starts from here. Operators that take
    a cache or a mask of whole numbers stay.
    """
    from onnx import numpy_helper

    arrays = {item.name: item for item in model.graph.initializer}
    replaced = {}
    for node in model.graph.node:
        if node.op_type != "Attention" or node.domain != "com.microsoft":
            continue
        given = list(node.input) + [""] * (7 - len(node.input))
        if given[1] not in arrays or given[2] not in arrays or any(given[3:5]) or given[6]:
            continue
        values = {item.name: item for item in node.attribute}
        if set(values) - {"num_heads", "scale"}:
            continue
        weight, bias = (numpy_helper.to_array(arrays[name]) for name in given[1:3])
        heads, size = values["num_heads"].i, weight.shape[1] // 3 // values["num_heads"].i
        scale = values["scale"].f if "scale" in values else 0.0
        apart = _Apart(model, node.name or node.output[0])
        replaced[node.output[0]] = apart.nodes(
            given[0], weight, bias, given[5], node.output[0], heads=heads, scale=scale or size**-0.5
        )
    replace(model, replaced)
    return len(replaced)


class _Apart:
    """The nodes of one attention."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self._graph = model.graph
        self._name = name
        self._made: list[onnx.NodeProto] = []

    def nodes(
        self,
        source: str,
        weight: Any,
        bias: Any,
        mask: str,
        output: str,
        *,
        heads: int,
        scale: float,
    ) -> list[onnx.NodeProto]:
        """Projections, scores, shares, and what they weigh."""
        width = weight.shape[1] // 3
        apart = self._constant("apart", np.array([0, 0, heads, width // heads], np.int64))
        parts = []
        for number, (part, order) in enumerate(
            (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
        ):
            here = slice(number * width, (number + 1) * width)
            matrix = self._constant(f"{part}_weight", np.ascontiguousarray(weight[:, here]))
            product = self._node("MatMul", f"{part}_product", source, matrix)
            summed = self._node(
                "Add", part, product, self._constant(f"{part}_bias", bias[here].copy())
            )
            parted = self._node("Reshape", f"{part}_parted", summed, apart)
            parts.append(self._node("Transpose", f"{part}_heads", parted, perm=order))
        scores = self._node("MatMul", "scores", *parts[:2])
        factor = self._constant("factor", np.array(scale, np.float32))
        scores = self._node("Mul", "scaled", scores, factor)
        if mask:
            scores = self._node("Add", "masked", scores, mask)
        shares = self._node("Softmax", "shares", scores, axis=-1)
        weighed = self._node("MatMul", "weighed", shares, parts[2])
        turned = self._node("Transpose", "turned", weighed, perm=[0, 2, 1, 3])
        whole = self._constant("whole", np.array([0, 0, width], np.int64))
        self._node("Reshape", "", turned, whole)
        self._made[-1].output[0] = output
        return self._made

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(value, f"{self._name}/{name}"))
        return f"{self._name}/{name}"

    def _node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"{self._name}/{name}" if name else f"{self._name}/joined"
        self._made.append(
            helper.make_node(operator, list(inputs), [output], name=output, **attributes)
        )
        return output


def biases(added: Sequence[Any], width: int) -> Any:
    """Of query, key and value in one vector; zeros where there is none."""
    none = np.zeros(width, np.float32)
    return np.concatenate(
        [none if each is None else each.reshape(-1).astype(np.float32) for each in added]
    )


def replace(
    model: onnx.ModelProto,
    made: Mapping[str, Sequence[onnx.NodeProto]],
    before: Iterable[onnx.NodeProto] = (),
) -> None:
    """Put nodes in the place of those whose first output is a key of `made`, and drop the unread.

    A mask is often computed after the projections, and a node must follow what it reads: the nodes
    are put into that order again. `before`: further nodes that they read.
    """
    from mlserve_cli.graph import repair

    if not made:
        return
    nodes = [node for node in model.graph.node if node.output[0] not in made]
    nodes += [*before, *(node for each in made.values() for node in each)]
    ordered = _sorted(nodes)
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    if not any(each.domain == "com.microsoft" for each in model.opset_import):
        model.opset_import.add(domain="com.microsoft", version=1)
    repair.without_dead(model.graph)


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Copies in an order in which each node follows those that it reads."""
    from mlserve_cli.graph import repair

    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    done: list[int] = []
    state = [0] * len(nodes)  # 1: its inputs are waited for, 2: it stands
    for start in range(len(nodes)):
        waiting = [start]
        while waiting:
            index = waiting[-1]
            needed = {makers[name] for name in repair.reads(nodes[index]) if name in makers}
            missing = sorted(each for each in needed if state[each] == 0)
            if state[index] == 0:
                state[index] = 1
                if missing:
                    waiting += missing
                    continue
            waiting.pop()
            if state[index] == 1:
                state[index] = 2
                done.append(index)
    return [type(nodes[index]).FromString(nodes[index].SerializeToString()) for index in done]
