"""How far each tensor of a variant lies from the same tensor of its float parent, on real rows.

Both files are run with their inner tensors as outputs and without ONNX Runtime's optimizations, so
that the names of the file hold; int8 is then emulated in float, step for step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.graph.session import settings

if TYPE_CHECKING:
    from onnx import ModelProto

    from mlserve_cli.runtime.tensors import Tensors

_LIMIT_BYTES = 256 << 20
"""Of inner tensors that are held at the same time; more of them are fetched in several runs."""

_DEQUANTIZED = "_DequantizeLinear_Output"  # what ONNX Runtime's writer appends


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Of one tensor: the root of the mean squared difference over that of the tensor's values.

    The differences of all tensors before it have come down to this one. node: that makes it.
    """

    tensor: str
    node: str
    operator: str
    relative_rms: float

    @property
    def decibels(self) -> float:
        """The same as a ratio of signal to noise."""
        return float(-20 * np.log10(max(self.relative_rms, 1e-12)))


def deviations(parent: Path, variant: Path, feed: Tensors) -> list[Deviation]:
    """The float tensors that both files have, in the parent's order.

    Raises `StepError` where they share none, or one of them cannot be run.
    """
    import onnx

    before, after = onnx.load(parent), onnx.load(variant)
    pairs = _pairs(before, after)
    if not pairs:
        raise StepError(
            "the package and its parent share no inner tensor that could be compared.",
            hint="only a variant that keeps its parent's names, such as an int8 one, can be",
        )
    found: list[Deviation] = []
    makers = {name: node for node in before.graph.node for name in node.output}
    step = _at_a_time(before, list(pairs), feed)
    for start in range(0, len(pairs), step):
        part = dict(list(pairs.items())[start : start + step])
        mine = _run(before, list(part), feed, what=parent)
        theirs = _run(after, list(part.values()), feed, what=variant)
        for name, other in part.items():
            first, second = mine[name], theirs[other]
            if first.shape != second.shape:
                continue
            node = makers.get(name)
            found.append(
                Deviation(
                    tensor=name,
                    node="" if node is None else node.name,
                    operator="" if node is None else node.op_type,
                    relative_rms=_relative(first, second),
                )
            )
    return found


def _relative(first: Any, second: Any) -> float:
    first, second = first.astype(np.float64), second.astype(np.float64)
    size = float(np.sqrt(np.mean(first**2)))
    return float(np.sqrt(np.mean((first - second) ** 2))) / max(size, 1e-30)


def _pairs(before: ModelProto, after: ModelProto) -> dict[str, str]:
    """The parent's tensors → the variant's of the same meaning; the dequantized one where it is."""
    import onnx

    floats = {
        info.name
        for info in (*onnx.shape_inference.infer_shapes(before).graph.value_info,
                     *before.graph.output)
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }  # fmt: skip
    there = {name for node in after.graph.node for name in node.output}
    pairs = {}
    for node in before.graph.node:
        if node.op_type == "Constant":
            continue
        for name in node.output:
            if name not in floats:
                continue
            if name + _DEQUANTIZED in there:
                pairs[name] = name + _DEQUANTIZED
            elif name in there:
                pairs[name] = name
    return pairs


def _at_a_time(model: ModelProto, names: Sequence[str], feed: Tensors) -> int:
    """How many tensors may be fetched in one run. Their sizes are guessed from the inputs'."""
    largest = max((array.nbytes for array in feed.values()), default=1)
    return int(min(max(_LIMIT_BYTES // (largest * 32), 4), max(len(names), 1)))


def _run(
    model: ModelProto, names: Sequence[str], feed: Tensors, *, what: Path
) -> Mapping[str, Any]:
    import onnx
    import onnxruntime as ort

    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    for name in names:
        tapped.graph.output.append(onnx.ValueInfoProto(name=name))
    plain = settings(optimized=False)
    with tempfile.TemporaryDirectory(prefix="mlserve-explain-") as folder:
        path = Path(folder) / "tapped.onnx"
        try:
            onnx.save(tapped, path)
            session = ort.InferenceSession(
                path, sess_options=plain, providers=["CPUExecutionProvider"]
            )
            values = session.run(list(names), dict(feed))
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise StepError(
                f"the inner tensors of '{what}' cannot be read: {first_line(error)}."
            ) from error
    return dict(zip(names, values, strict=True))
