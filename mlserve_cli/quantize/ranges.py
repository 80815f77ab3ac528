"""The smallest and largest value of tensors inside a model, over a stream of real batches.

The model is run with ReduceMin and ReduceMax behind each tensor, so that two numbers a tensor come
out of a run and memory is bounded by one batch, however many there are and of whatever sizes.
(ONNX Runtime's own calibrators keep intermediate tensors and fail on a ragged last batch.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.errors import DataError, StepError, first_line
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.tensors import Tensors, TensorSpec, check, rows

_LOW = "__low"
_HIGH = "__high"

LIMIT = 1e30
"""Beyond it stand masks (-inf, the lowest float32) and overflow, never measurements."""


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and largest value that a tensor took."""

    low: float
    high: float

    def joined(self, other: Range) -> Range:
        """The range that covers both."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    @property
    def usable(self) -> bool:
        """Whether 256 steps over this range could mean anything."""
        return bool(np.isfinite((self.low, self.high)).all()) and (
            max(abs(self.low), abs(self.high)) < LIMIT
        )


@dataclass(frozen=True, slots=True)
class Collected:
    """The ranges by tensor name, and the rows and batches that they were taken from."""

    ranges: Mapping[str, Range]
    rows: int
    batches: int


def collect(
    model: Path,
    tensors: Sequence[str],
    batches: Iterable[Tensors],
    *,
    inputs: tuple[TensorSpec, ...],
    progress: Progress,
) -> Collected:
    """Run `batches` through `model` and return the range of each of `tensors` (float32, by name).

    Raises `DataError` for a batch that holds NaN or infinities or does not fit `inputs`, and when
    there is no batch at all; `StepError` when the model itself fails.
    """
    session = _session(model, tensors)
    wanted = [name + suffix for name in tensors for suffix in (_LOW, _HIGH)]
    found: dict[str, Range] = {}
    count = number = 0
    for number, batch in enumerate(batches, start=1):
        _check(batch, number, inputs)
        try:
            values = session.run(wanted, batch)
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise StepError(
                f"the model fails on calibration batch {number}: {first_line(error)}."
            ) from error
        for name, low, high in zip(tensors, values[::2], values[1::2], strict=True):
            new = Range(float(low), float(high))
            found[name] = found[name].joined(new) if name in found else new
        count += rows(batch)
        progress.advance(note=f"{count} rows")
    if not count:
        raise DataError(
            "the calibration data is empty.",
            hint="a hundred real rows or more are needed to find the range of each tensor",
        )
    return Collected(found, count, number)


def _check(batch: Tensors, number: int, inputs: tuple[TensorSpec, ...]) -> None:
    for name, array in batch.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array))[0]
            row = f", row {int(bad[0]) + 1} of it" if array.ndim else ""
            raise DataError(
                f"calibration batch {number}{row}: input '{name}' holds {array[tuple(bad)]}.",
                hint="a range cannot cover NaN or infinity: leave such rows out",
            )
    try:
        check(inputs, batch, model="calibration")
    except InvalidRequest as error:
        raise DataError(
            f"calibration batch {number} does not fit the model: {error.message}", hint=error.hint
        ) from error


def _session(model: Path, tensors: Sequence[str]) -> Any:
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    augmented = onnx.load(model)
    del augmented.graph.output[:]
    for name in tensors:
        for op, suffix in (("ReduceMin", _LOW), ("ReduceMax", _HIGH)):
            # Without axes both reduce everything, in every opset: a scalar is left.
            augmented.graph.node.append(
                helper.make_node(op, [name], [name + suffix], name=name + suffix, keepdims=0)
            )
            augmented.graph.output.append(
                helper.make_tensor_value_info(name + suffix, TensorProto.FLOAT, [])
            )
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # fatal: the rest is raised as well
    path = model.with_name("augmented.onnx")
    onnx.save(augmented, path)
    return ort.InferenceSession(path, sess_options=settings, providers=["CPUExecutionProvider"])
