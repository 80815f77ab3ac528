"""Rows next to the splits of a model's trees, where a wrong conversion shows first.

Where numbers flow straight into the trees, each split gets three rows: at its threshold, and at
the float32 below and above it; both sides must send them the same way. Where something is computed
before the trees (a scaler), float noise decides at the threshold itself; then two rows are placed
at a small distance to either side of the input that makes the computed value cross it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlserve_cli.errors import StepError
from mlserve_cli.graph import difference
from mlserve_cli.graph.ensemble import Splits, splits
from mlserve_cli.graph.session import settings
from mlserve_cli.runtime.tensors import Array, Tensors, rows

if TYPE_CHECKING:
    import onnx

LIMIT_SPLITS = 512
"""Of one ensemble, evenly chosen: 1,536 rows tell a share of 1 % from none."""

DISTANCE = 8e-6
"""Relative to the column's largest value, where a computation lies before the trees: some sixty
float32 steps, a few times what a scaler loses."""

NOISE = 1e-5
"""Relative: float32 sums of a thousand trees stay below, the leaf of another side lies above."""

SHARE = 0.01
"""Of these rows may be answered otherwise."""

_ZERO = 1e-30
"""LightGBM splits beside zero at ±1e-35, and takes all that is smaller for zero."""

_LARGEST = np.finfo(np.float32).max
"""A threshold there tells NaN from numbers, in LightGBM and CatBoost; no number lies beside it."""


@dataclass(frozen=True, slots=True)
class Edges:
    """A model against its source on rows next to its splits.

    rows, splits: how many. exact: all of them at float32 neighbours of the threshold.
    changed: share of decisions that differ. deviating: share of rows whose answer differs beyond
    the noise of float32 sums.
    """

    rows: int
    splits: int
    exact: bool
    changed: float
    deviating: float


def compare(
    source: Callable[[Tensors], Tensors],
    run: Callable[[Tensors], Tensors],
    model: onnx.ModelProto,
    real: Tensors,
    *,
    error: float,
    decided_by: str | None = None,
) -> Edges | None:
    """Run both on rows next to the splits; None for a model without trees that numbers reach.

    error: the relative error on real rows, which is no less here. decided_by: the output with the
    scores of a label; where two of them tie, either label is right.
    """
    placed = [each for found in splits(model) if (each := _place(model, found, real)) is not None]
    if not placed:
        return None
    batch = {name: np.concatenate([each.rows[name] for each in placed]) for name in placed[0].rows}
    expected, found = source(batch), run(batch)
    tied = difference.ties([expected.get(decided_by or "")], NOISE)
    changed = np.zeros(rows(batch), bool)
    deviating = np.zeros(rows(batch), bool)
    for name, left in expected.items():
        right = found[name]
        if left.dtype.kind not in "fc":
            other = left != right if tied is None else (left != right) & ~tied
            changed |= other.reshape(len(other), -1).any(axis=1)
            continue
        left, right = left.astype(np.float64), right.astype(np.float64)
        scale = max(float(np.abs(left[np.isfinite(left)]).max(initial=0.0)), 1e-6)
        gaps = np.abs(left - right).reshape(len(left), -1).max(axis=1)
        deviating |= ~(gaps <= max(NOISE, error) * scale)
    return Edges(
        rows=len(changed),
        splits=sum(each.splits for each in placed),
        exact=all(each.exact for each in placed),
        changed=float(np.mean(changed)),
        deviating=float(np.mean(changed | deviating)),
    )


def check(edges: Edges | None) -> None:
    """Raise `StepError` where more than `SHARE` of the rows are answered otherwise."""
    if edges is None or edges.deviating <= SHARE:
        return
    raise StepError(
        f"next to the splits of its trees the exported model answers otherwise than its source: "
        f"{edges.deviating:.1%} of {edges.rows} rows, where {SHARE:.0%} is allowed "
        f"({edges.changed:.1%} of the decisions).",
        hint="train on float32 data; where the converter is wrong, report the figures to it",
    )


@dataclass(frozen=True, slots=True)
class _Placed:
    rows: Tensors
    splits: int
    exact: bool


def _place(model: onnx.ModelProto, found: Splits, real: Tensors) -> _Placed | None:
    """Real rows, each with one value moved next to a split."""
    chosen = np.unique(
        np.linspace(0, len(found.features) - 1, min(LIMIT_SPLITS, len(found.features))).astype(int)
    )
    features, thresholds = found.features[chosen], found.thresholds[chosen]
    # What the model sees is float32, and the source is given the very same numbers.
    real = {
        name: array.astype(np.float32).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in real.items()
    }
    flow = _flow(model, found.value, real)
    if flow is not None:
        return _direct(flow, features, thresholds, real)
    return _crossing(model, found.value, features, thresholds, real)


def _direct(
    flow: list[tuple[str, int]], features: Array, thresholds: Array, real: Tensors
) -> _Placed | None:
    moves: list[tuple[str, int, float]] = []
    count = 0
    for feature, threshold in zip(features, thresholds, strict=True):
        if feature >= len(flow):
            continue
        name, column = flow[feature]
        kind = real[name].dtype.kind if name else ""
        if not kind or kind not in "fiu" or abs(threshold) >= _LARGEST:
            continue
        if kind == "f":
            below, above = (np.nextafter(threshold, np.float32(side)) for side in (-np.inf, np.inf))
            values = [float(each) for each in (below, threshold, above)]
            if abs(threshold) < _ZERO:
                values = [-_ZERO, 0.0, _ZERO]
        else:
            values = [float(np.floor(threshold)), float(np.floor(threshold)) + 1]
        count += 1
        moves += [(name, column, value) for value in values]
    return _moved(moves, real, count, exact=True)


def _crossing(
    model: onnx.ModelProto, value: str, features: Array, thresholds: Array, real: Tensors
) -> _Placed | None:
    """Find, by bisection, which input makes the computed value cross each threshold, and where."""
    columns = [
        (name, column)
        for name, array in real.items()
        if array.dtype.kind == "f" and array.ndim == 2
        for column in range(array.shape[1])
        if np.isfinite(array[:, column]).any()
    ]
    if not columns:
        return None
    inside = _probe(model, value)
    ranges = [
        (float(np.nanmin(real[name][:, column])), float(np.nanmax(real[name][:, column])))
        for name, column in columns
    ]
    ends = inside(
        _with(
            real,
            [
                (*columns[each], ranges[each][side])
                for each in range(len(columns))
                for side in (0, 1)
            ],
        )
    ).reshape(len(columns), 2, -1)
    low, high, found = [], [], []
    for feature, threshold in zip(features, thresholds, strict=True):
        below = ends[:, :, feature] <= threshold
        crossing = np.flatnonzero(below[:, 0] != below[:, 1])
        if not len(crossing):
            continue
        column = int(crossing[0])
        found.append((column, feature, threshold, below[column, 0]))
        low.append(ranges[column][0])
        high.append(ranges[column][1])
    if not found:
        return None
    left, right = np.array(low), np.array(high)
    for _ in range(40):  # float32 has 24 bits; the rest is for numbers near zero
        middle = ((left + right) / 2).astype(np.float32).astype(np.float64)
        seen = inside(
            _with(
                real,
                [(*columns[each[0]], float(at)) for each, at in zip(found, middle, strict=True)],
                base=0,
            )
        )
        same = np.array(
            [
                (seen[index, feature] <= threshold) == below
                for index, (_, feature, threshold, below) in enumerate(found)
            ]
        )
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    moves = []
    for (column, *_), before, after in zip(found, left, right, strict=True):
        gap = DISTANCE * max(map(abs, ranges[column]))
        moves += [(*columns[column], before - gap), (*columns[column], after + gap)]
    return _moved(moves, real, len(found), exact=False, base=0)


def _moved(
    moves: list[tuple[str, int, float]],
    real: Tensors,
    count: int,
    *,
    exact: bool,
    base: int | None = None,
) -> _Placed | None:
    return _Placed(_with(real, moves, base=base), count, exact) if moves else None


def _with(real: Tensors, moves: list[tuple[str, int, float]], *, base: int | None = 0) -> Tensors:
    """A row for each move: the real row `base`, or one after the other, with one value replaced."""
    total = rows(real)
    taken = np.arange(len(moves)) % total if base is None else np.full(len(moves), base)
    made = {name: array[taken] for name, array in real.items()}
    for index, (name, column, value) in enumerate(moves):
        made[name][index, column] = value
    return made


def _probe(model: onnx.ModelProto, value: str) -> Callable[[Tensors], Array]:
    """The model cut off at what flows into the trees."""
    import onnx
    import onnxruntime

    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.output[:]
    cut.graph.output.add(name=value)
    session = onnxruntime.InferenceSession(
        cut.SerializeToString(), settings(), providers=["CPUExecutionProvider"]
    )
    dtypes = {each.name: each.type for each in session.get_inputs()}

    def run(batch: Tensors) -> Array:
        given = {name: _fed(array, dtypes[name]) for name, array in batch.items() if name in dtypes}
        (found,) = session.run(None, given)
        matrix: Array = found.reshape(len(found), -1)
        return matrix

    return run


def _fed(array: Array, kind: str) -> Array:
    """An array as ONNX Runtime takes it: float32 for floats, `str` for text."""
    if kind == "tensor(float)":
        return array.astype(np.float32)
    if array.dtype.kind != "O":
        return array
    flat = np.empty(array.size, np.object_)
    flat[:] = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
    return flat.reshape(array.shape)


def _flow(model: onnx.ModelProto, value: str, real: Tensors) -> list[tuple[str, int]] | None:
    """For each feature the input and column that it is, unchanged; None where something computes.

    Columns that something computes (an encoder) among others that flow straight are left out.
    """
    makers = {name: node for node in model.graph.node for name in node.output}

    def trace(name: str) -> list[tuple[str, int]] | None:
        if name in real:
            array = real[name]
            return [(name, column) for column in range(array.shape[1] if array.ndim > 1 else 1)]
        node = makers.get(name)
        if node is None:
            return None
        if node.op_type in ("Cast", "Identity"):
            return trace(node.input[0])
        if node.op_type == "Where":  # what stands for a missing value becomes NaN
            return trace(node.input[2])
        if node.op_type != "Concat":
            return None
        parts = [trace(each) or _opaque(makers, each, real) for each in node.input]
        if any(part is None for part in parts):
            return None
        return [each for part in parts if part for each in part]

    return trace(value)


def _opaque(
    makers: dict[str, onnx.NodeProto], name: str, real: Tensors
) -> list[tuple[str, int]] | None:
    """An encoded column is one feature, which no number can be placed in: it has no name."""
    node = makers.get(name)
    if node is None or node.op_type != "LabelEncoder" or node.input[0] not in real:
        return None
    return [("", 0)]
