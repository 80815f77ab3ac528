"""How much error each node makes when it alone is quantized, found in one pass over real rows.

Beside every convolution and product stand twins in the same graph: one with its input and weights
rounded to 8 bits, one with its input alone. All are run on the same float input, so no error is
handed on, and three sums a node come out of a run: memory is bounded by one batch, and one pass
ranks all of them.

A tensor that 8 bits cannot hold is rounded where it is made: leaving only the product that suffers
in float does not help. So whoever makes it is blamed for what its rounding does there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.graph.session import settings
from mlserve_cli.package.progress import Progress
from mlserve_cli.quantize.selection import GREEDY, HEAVY, Selection
from mlserve_cli.quantize.weights import Weights, channel_axis
from mlserve_cli.quantize.weights import rounded as weight_rounded

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from mlserve_cli.quantize.calibration.range import Range
    from mlserve_cli.runtime.tensors import Tensors

_ERROR, _INPUT_ERROR, _SIGNAL = "__twin_error", "__twin_input_error", "__twin_signal"
_STEPS = 255  # of an unsigned activation


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Of one node: the energy of the error over that of the output, 0 being no error at all.

    It is its own, or that of a product which takes the tensor that this one makes in 8 bits, where
    that is larger.
    """

    node: str
    noise: float


def rank(
    prepared: ModelProto,
    selection: Selection,
    ranges: Mapping[str, Range],
    batches: Iterable[Tensors],
    folder: Path,
    *,
    progress: Progress,
) -> list[Sensitivity]:
    """The selected heavy nodes, the one that makes most error first.

    prepared: the float model that `selection` was made of; it is not changed. folder: for a copy of
    it. Raises `StepError` when it fails.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    nodes = [
        node
        for node in model.graph.node
        if node.name in set(selection.nodes) and node.op_type in HEAVY
    ]
    session = _session(model, nodes, ranges, folder)
    names = [f"{node.name}{end}" for node in nodes for end in (_ERROR, _INPUT_ERROR, _SIGNAL)]
    sums = np.zeros(len(names))
    for number, batch in enumerate(batches, start=1):
        try:
            sums += np.array([float(value) for value in session.run(names, dict(batch))])
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise StepError(
                f"the model fails on calibration batch {number}: {first_line(error)}."
            ) from error
        progress.advance(note=f"batch {number}")
    noise, handed = {}, {}
    for node, (own, of_input, signal) in zip(nodes, sums.reshape(-1, 3), strict=True):
        handed[node.name] = float(of_input / max(signal, 1e-30))
        noise[node.name] = max(float(own / max(signal, 1e-30)), handed[node.name])
    for taker, maker in _makers(prepared, selection, set(noise)):
        noise[maker] = max(noise[maker], handed[taker])
    # Of equals the one that takes the tensor stands before the one that makes it: it comes later.
    later = [node.name for node in reversed(nodes)]
    return [Sensitivity(name, noise[name]) for name in sorted(later, key=lambda name: -noise[name])]


def _makers(model: ModelProto, selection: Selection, heavy: set[str]) -> Iterator[tuple[str, str]]:
    """(who takes a tensor of 8 bits, who makes it), directly or through what only carries it.

    A product that would hand over float as soon as nobody takes it in int8 is not among them.
    """
    carriers = set(selection.nodes) - heavy
    origins: dict[str, set[str]] = {}  # tensor → the heavy nodes that it comes from
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    for node in model.graph.node:  # in topological order
        if node.name in heavy:
            for maker in sorted(origins.get(node.input[0], ())):
                yield node.name, maker
            stays = node.op_type == "Conv" or (
                node.op_type == "Gemm" and not GREEDY.isdisjoint(readers.get(node.output[0], ()))
            )
            origins[node.output[0]] = {node.name} if stays else set()
        elif node.name in carriers:
            found = set().union(*(origins.get(name, set()) for name in node.input))
            for name in node.output:
                origins[name] = found


def _session(
    model: ModelProto, nodes: list[NodeProto], ranges: Mapping[str, Range], folder: Path
) -> Any:
    import onnx
    import onnxruntime as ort

    weights = Weights(model)
    rounded: dict[str, str] = {}
    del model.graph.output[:]
    for node in nodes:
        data = rounded.get(node.input[0])
        if data is None and (found := ranges.get(node.input[0])) is not None:
            data = rounded[node.input[0]] = _round(model, node.input[0], found)
        weight = weight_rounded(weights.array(node.input[1]), channel_axis(node))
        name = weights.add(weight, f"{node.name}__twin_weight")
        _add_twins(model, node, data or node.input[0], name)
    # Optimized, a twin could be merged with its node, or its rounding be taken away.
    plain = settings(optimized=False)
    path = folder / "twins.onnx"
    onnx.save(model, path)
    try:
        return ort.InferenceSession(path, sess_options=plain, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise StepError(f"the nodes cannot be ranked: {first_line(error)}.") from error


def _round(model: ModelProto, tensor: str, found: Range) -> str:
    """A tensor as 8 bits would hold it; the new tensor's name."""
    from onnx import helper, numpy_helper

    low, high = min(found.low, 0.0), max(found.high, 0.0)
    scale = max((high - low) / _STEPS, 1e-30)
    zero = int(np.clip(round(-low / scale), 0, _STEPS))
    start = f"{tensor}__twin"
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(scale, np.float32), f"{start}_scale"),
            numpy_helper.from_array(np.array(zero, np.uint8), f"{start}_zero"),
        ]
    )
    for operator, source, target in (
        ("QuantizeLinear", tensor, f"{start}_q"),
        ("DequantizeLinear", f"{start}_q", f"{start}_dq"),
    ):
        model.graph.node.append(
            helper.make_node(
                operator, [source, f"{start}_scale", f"{start}_zero"], [target], name=target
            )
        )
    return f"{start}_dq"


def _add_twins(model: ModelProto, node: NodeProto, data: str, weight: str) -> None:
    from onnx import NodeProto, helper

    output = node.output[0]
    _add_sum(model, output, f"{node.name}{_SIGNAL}")
    for end, inputs in ((_ERROR, (data, weight)), (_INPUT_ERROR, (data, node.input[1]))):
        start = f"{node.name}{end}"
        twin = NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{start}_twin"
        twin.input[0], twin.input[1] = inputs
        twin.output[0] = f"{start}_output"
        model.graph.node.append(twin)
        model.graph.node.append(
            helper.make_node(
                "Sub", [twin.output[0], output], [f"{start}_difference"], name=f"{start}_sub"
            )
        )
        _add_sum(model, f"{start}_difference", start)


def _add_sum(model: ModelProto, source: str, target: str) -> None:
    """One more output: the sum of the squares of a tensor."""
    from onnx import TensorProto, helper

    # Without axes everything is reduced, in every opset: a scalar is left.
    model.graph.node.append(
        helper.make_node("ReduceSumSquare", [source], [target], name=target, keepdims=0)
    )
    model.graph.output.append(helper.make_tensor_value_info(target, TensorProto.FLOAT, []))
