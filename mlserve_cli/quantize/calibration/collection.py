"""The range of each tensor inside a model, over the calibration rows, by one of the calibrators.

First the extremes: ReduceMin and ReduceMax stand behind each tensor, so that two numbers come out
of a run. Then, for every calibrator but minmax, a second pass that counts the values into
histograms over these extremes. (ONNX Runtime's own calibrators keep all intermediate tensors and
fail on a ragged last batch; their cache takes another model's ranges.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Progress
from mlserve_cli.quantize.calibration import probe
from mlserve_cli.quantize.calibration.calibrators import CALIBRATORS
from mlserve_cli.quantize.calibration.histogram import Histogram
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.calibration.rows import CalibrationRows, cut
from mlserve_cli.runtime.tensors import rows

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LOW = "__low"
_HIGH = "__high"

LAST = 0.25
"""The share of the rows, at their end, whose effect on the ranges is reported."""


@dataclass(frozen=True, slots=True)
class Collected:
    """The ranges by tensor name, and the rows and batches that they were taken from.

    growth: by how much the last quarter of the rows widened each tensor's extremes, relative to
        their width before it; empty where there are too few rows to tell.
    """

    ranges: Mapping[str, Range]
    rows: int
    batches: int
    growth: Mapping[str, float] = field(default_factory=dict)


def collect(
    model: ModelProto,
    tensors: Sequence[str],
    calibration: CalibrationRows,
    folder: Path,
    *,
    calibrator: str = "minmax",
    percentile: float = 99.99,
    progress: Progress,
) -> Collected:
    """Run the rows through `model` and return the range of each of `tensors` (float32, by name).

    Raises `StepError` when the model itself fails, and for a tensor that 8 bits cannot cover.
    """
    found = extremes(model, tensors, calibration, folder, progress=progress)
    _check_usable(found.ranges)
    if calibrator == "minmax":
        return found
    histograms = {name: Histogram.over(item) for name, item in found.ranges.items()}
    seen = 0
    for values, count in probe.values(model, tensors, calibration, folder):
        for name, array in values.items():
            histograms[name].add(array)
        seen += count
        progress.advance(note=f"{seen} rows")
    choose = CALIBRATORS[calibrator]
    ranges = {name: choose(item, percentile) for name, item in histograms.items()}
    return Collected(ranges, found.rows, found.batches, found.growth)


def extremes(
    model: ModelProto,
    tensors: Sequence[str],
    calibration: CalibrationRows,
    folder: Path,
    *,
    progress: Progress,
) -> Collected:
    """The smallest and the largest value of each tensor. Raises `StepError` as the model does."""
    opened = probe.session(model, _names(tensors), folder, nodes=_reductions(tensors))
    found: dict[str, Range] = {}
    before: dict[str, Range] = {}
    first = int(calibration.count * (1 - LAST)) if calibration.count >= 8 else 0
    seen = number = 0
    for batch in calibration:
        number += 1
        size = rows(batch)
        inside = first - seen  # where the last quarter begins, in this batch
        edges = [0, inside, size] if 0 < inside < size and not calibration.fixed else [0, size]
        for start, stop in pairwise(edges):
            values = probe.run(opened, _names(tensors), cut(batch, start, stop), number)
            for name, low, high in zip(tensors, values[::2], values[1::2], strict=True):
                new = Range(float(low), float(high))
                found[name] = found[name].joined(new) if name in found else new
            if first and not before and seen + stop >= first:
                before = dict(found)
        seen += size
        progress.advance(note=f"{seen} rows")
    growth = {
        name: (found[name].width - item.width) / item.width
        for name, item in before.items()
        if item.width > 0 and item.usable and found[name].usable
    }
    return Collected(found, seen, number, growth)


def _names(tensors: Sequence[str]) -> list[str]:
    return [name + suffix for name in tensors for suffix in (_LOW, _HIGH)]


def _reductions(tensors: Sequence[str]) -> list[NodeProto]:
    """The smallest and the largest of each; those of the last tensors first.

    ONNX Runtime orders nodes from the ends of the graph, the last one first. In the tensors' own
    order all of them were computed, and kept, before the first was reduced.
    """
    from onnx import helper

    return [
        # Without axes both reduce everything, in every opset: a scalar is left.
        helper.make_node(op, [name], [name + suffix], name=name + suffix, keepdims=0)
        for name in reversed(tensors)
        for op, suffix in (("ReduceMin", _LOW), ("ReduceMax", _HIGH))
    ]


def _check_usable(found: Mapping[str, Range]) -> None:
    for name, item in found.items():
        if not item.usable:
            raise StepError(
                f"tensor '{name}' ranges from {item.low:g} to {item.high:g} on the calibration "
                "data, which 8 bits cannot cover.",
                hint="exclude the node that makes or takes it, or mend the model or the data",
            )
