"""A prepared ONNX graph as a torch module, which rounds what the writer will write in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import StepError
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.qat import operators, rounding
from mlserve_cli.quantize.selection import ACTIVATIONS, HEAVY, RESHAPES, Selection
from mlserve_cli.quantize.weights import channel_axis
from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto, NodeProto

MOVERS = (*RESHAPES, "MaxPool")
"""The writer gives their outputs the scale of their inputs, whose levels they only move."""

KEEPERS = ("AveragePool",)
"""Their outputs get the scale of their inputs as well, and are rounded once more."""


def build(
    model: ModelProto,
    selection: Selection,
    ranges: Mapping[str, Range],
    *,
    reduce_range: bool = False,
) -> Any:
    """The graph as a module (see `_network`). Raises `StepError` for an unknown operator."""
    known = operators.table()
    for node in model.graph.node:
        if node.op_type not in (*known, "Constant") or node.domain not in ("", "ai.onnx"):
            raise StepError(
                f"quantization-aware training cannot compute the operator '{node.op_type}' "
                f"(node '{node.name}').",
                hint="quantize it with --method static, which needs no training",
            )
    return _network()(model, selection, ranges, reduce_range)


def _network() -> Any:
    """The class, made where torch is there."""
    import torch

    class Network(torch.nn.Module):
        """Inputs in the graph's order → the output, or a dict of them by name.

        Weights and biases of the chosen nodes learn, and both ends of every range but those that
        an activation gives. rounding: False computes in float, as the graph does.
        """

        def __init__(
            self,
            model: ModelProto,
            selection: Selection,
            ranges: Mapping[str, Range],
            reduce_range: bool,
        ) -> None:
            super().__init__()
            graph = model.graph
            self.rounding = True
            self.reduce_range = reduce_range
            self.chosen = frozenset(selection.nodes)
            self.nodes = [_copied(node) for node in graph.node]
            self.inputs = [item.name for item in graph.input]
            self.outputs = [item.name for item in graph.output]
            self.functions = operators.table()
            self.makers = {name: node for node in self.nodes for name in node.output}
            self.places: dict[str, str] = {}  # initializer → attribute
            self.ends: dict[str, tuple[str, str]] = {}  # tensor → attributes of its range
            learning = {
                name
                for node in self.nodes
                if node.name in self.chosen and node.op_type in HEAVY
                for name in node.input[1:]
            }
            for name, array in _constants(model).items():
                self._keep(name, array, learns=name in learning and array.dtype == np.float32)
            for name in _rounded(self.nodes, selection, self.makers):
                self._range(name, ranges[name])

        def _keep(self, name: str, array: Array, *, learns: bool) -> None:
            place = self.places[name] = f"constant_{len(self.places)}"
            tensor = torch.from_numpy(np.array(array))
            if learns:
                self.register_parameter(place, torch.nn.Parameter(tensor))
            else:
                self.register_buffer(place, tensor)

        def _range(self, name: str, found: Range) -> None:
            maker = self.makers.get(name)
            if maker is not None and maker.name in self.chosen and maker.op_type in KEEPERS:
                root = maker.input[0]
                while root not in self.ends:
                    root = self.makers[root].input[0]
                self.ends[name] = self.ends[root]
                return
            fixed = maker is not None and maker.op_type in ACTIVATIONS
            count = len(list(self.parameters()))
            self.ends[name] = (f"low_{count}", f"high_{count}")
            low, high = min(found.low, 0.0), max(found.high, 0.0)
            # What a Relu cuts off stays cut off: the writer makes the rounding do its work.
            low_learns = not (fixed and low == 0.0)
            high_learns = not (fixed and maker is not None and maker.op_type == "Clip")
            for place, value, learns in zip(
                self.ends[name], (low, high), (low_learns, high_learns), strict=True
            ):
                end = torch.nn.Parameter(torch.tensor(value), requires_grad=learns)
                self.register_parameter(place, end)

        def forward(self, *given: torch.Tensor) -> Any:
            values: dict[str, Any] = dict(zip(self.inputs, given, strict=True))
            rounded: dict[str, Any] = {}
            values |= {name: getattr(self, place) for name, place in self.places.items()}
            for node in self.nodes:
                if node.op_type == "Constant":
                    continue
                read = [
                    self._read(node, place, values, rounded) for place in range(len(node.input))
                ]
                found = self.functions[node.op_type](node, read)
                parts = found if isinstance(found, tuple) else (found,)
                # Outputs that nothing here computes, as the indices of a MaxPool, are left out.
                values |= dict(zip(node.output, parts, strict=False))
            answers = {name: self._handed(name, values, rounded) for name in self.outputs}
            return next(iter(answers.values())) if len(answers) == 1 else answers

        def _read(
            self, node: NodeProto, place: int, values: dict[str, Any], rounded: dict[str, Any]
        ) -> Any:
            """What a node gets: of a rounded tensor only what the int8 graph would give it."""
            name = node.input[place]
            if not name:
                return None
            chosen = node.name in self.chosen
            if self.rounding and chosen and place == 1 and node.op_type in HEAVY:
                return rounding.weight(
                    values[name], channel_axis(node), reduce_range=self.reduce_range
                )
            maker = self.makers.get(name)
            if chosen or (maker is not None and maker.name in self.chosen):
                return self._handed(name, values, rounded)
            return values[name]

        def _handed(self, name: str, values: dict[str, Any], rounded: dict[str, Any]) -> Any:
            if not self.rounding or name not in self.ends:
                return values[name]
            if name not in rounded:
                low, high = (getattr(self, place) for place in self.ends[name])
                rounded[name] = rounding.activation(values[name], low, high)
            return rounded[name]

        def learned(self) -> tuple[dict[str, Array], dict[str, Range]]:
            """Initializers that learned, and the range of every rounded tensor."""
            arrays = {
                name: getattr(self, place).detach().cpu().contiguous().numpy()
                for name, place in self.places.items()
                if isinstance(getattr(self, place), torch.nn.Parameter)
            }
            ranges = {}
            for name, places in self.ends.items():
                low, high = (getattr(self, place).item() for place in places)
                ranges[name] = Range(min(low, 0.0), max(high, 0.0))
            return arrays, ranges

    return Network


def _rounded(
    nodes: list[NodeProto], selection: Selection, makers: Mapping[str, NodeProto]
) -> list[str]:
    """The tensors that get levels of their own."""
    chosen = set(selection.nodes)
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for name in selection.tensors:
        maker = makers.get(name)
        if maker is not None and maker.name in chosen:
            if maker.op_type in MOVERS:
                continue
            after = readers.get(name, [])
            folded = len(after) == 1 and after[0].op_type in ACTIVATIONS
            if folded and after[0].name in chosen:
                continue  # the writer rounds after the activation alone, which does its work
        found.append(name)
    return found


def _constants(model: ModelProto) -> dict[str, Array]:
    from onnx import numpy_helper

    found = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = _value(node)
    return found


def _value(node: NodeProto) -> Array:
    from onnx import numpy_helper

    item = node.attribute[0]
    if item.name == "value":
        array: Array = numpy_helper.to_array(item.t)
        return array
    types = {"value_float": np.float32, "value_floats": np.float32}
    value = {
        "value_float": item.f,
        "value_floats": list(item.floats),
        "value_int": item.i,
        "value_ints": list(item.ints),
    }[item.name]
    return np.array(value, types.get(item.name, np.int64))


def _copied(node: NodeProto) -> NodeProto:
    copy: NodeProto = type(node).FromString(node.SerializeToString())
    return copy
