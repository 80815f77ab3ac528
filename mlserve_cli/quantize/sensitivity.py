"""How much error each node makes when it alone is quantized, found in one pass over real rows.

Beside every convolution and product stands a twin in the same graph, with the same inputs rounded
to 8 bits, and the same weights. Both are run on the same float input, so no error is handed on, and
two sums a node come out of a run: memory is bounded by one batch, and one pass ranks all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.package.progress import Progress
from mlserve_cli.quantize.selection import HEAVY, Selection
from mlserve_cli.quantize.weights import Weights, channel_axis
from mlserve_cli.quantize.weights import rounded as weight_rounded

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from mlserve_cli.quantize.calibration.range import Range
    from mlserve_cli.runtime.tensors import Tensors

_ERROR, _SIGNAL = "__twin_error", "__twin_signal"
_STEPS = 255  # of an unsigned activation


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Of one node: the energy of its error over that of its output. 0 is no error at all."""

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
    names = [f"{node.name}{end}" for node in nodes for end in (_ERROR, _SIGNAL)]
    sums = np.zeros(len(names))
    for number, batch in enumerate(batches, start=1):
        try:
            sums += np.array([float(value) for value in session.run(names, dict(batch))])
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise StepError(
                f"the model fails on calibration batch {number}: {first_line(error)}."
            ) from error
        progress.advance(note=f"batch {number}")
    found = [
        Sensitivity(node.name, float(error / max(signal, 1e-30)))
        for node, error, signal in zip(nodes, sums[::2], sums[1::2], strict=True)
    ]
    return sorted(found, key=lambda each: -each.noise)


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
        _add_twin(model, node, data or node.input[0], name)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    # Optimized, a twin could be merged with its node, or its rounding be taken away.
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    path = folder / "twins.onnx"
    onnx.save(model, path)
    try:
        return ort.InferenceSession(path, sess_options=settings, providers=["CPUExecutionProvider"])
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


def _add_twin(model: ModelProto, node: NodeProto, data: str, weight: str) -> None:
    from onnx import NodeProto, TensorProto, helper

    start, output = node.name, node.output[0]
    twin = NodeProto()
    twin.CopyFrom(node)
    twin.name = f"{start}__twin"
    twin.input[0], twin.input[1] = data, weight
    twin.output[0] = f"{start}__twin_output"
    model.graph.node.append(twin)
    model.graph.node.append(
        helper.make_node(
            "Sub", [twin.output[0], output], [f"{start}__twin_difference"], name=f"{start}__sub"
        )
    )
    for source, target in ((f"{start}__twin_difference", _ERROR), (output, _SIGNAL)):
        # Without axes everything is reduced, in every opset: a scalar is left.
        model.graph.node.append(
            helper.make_node(
                "ReduceSumSquare", [source], [start + target], name=start + target, keepdims=0
            )
        )
        model.graph.output.append(
            helper.make_tensor_value_info(start + target, TensorProto.FLOAT, [])
        )
