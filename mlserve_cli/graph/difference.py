"""How far two sides of one output are apart, and how much of that is more than float noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlserve_cli.errors import StepError
from mlserve_cli.runtime.tensors import Array


@dataclass(frozen=True, slots=True)
class Line:
    """One output at one batch size.

    relative_error: the largest, relative to the largest magnitude of the source's output.
    agreement: share of decisions that are the same; None where the output decides nothing.
    deviating: share of rows whose error is over the tolerance and beyond float noise.
    changed: share of decisions that differ beyond float noise.
    on_edge: share of rows that are over the tolerance by float noise alone.
    """

    output: str
    batch: int
    rows: int
    relative_error: float
    agreement: float | None
    deviating: float = 0.0
    changed: float = 0.0
    on_edge: float = 0.0


def compare(
    name: str,
    size: int,
    expected: list[Array],
    found: list[Array],
    moved: list[list[Array]],
    tolerance: float,
    tied: Array | None,
) -> Line:
    """Compare the batches of one output; `moved` holds the source's answers to nudged rows."""
    for left, right in zip(expected, found, strict=True):
        if left.shape != right.shape:
            raise StepError(
                f"output '{name}' of the exported model has the shape {right.shape} at batch "
                f"{size}, and the source answers {left.shape}.",
                hint="a batch size may be baked in: take it from the input, as in x.shape[0]",
            )
    left, right = _joined(expected), _joined(found)
    variants = [_joined(list(each)) for each in zip(*moved, strict=True)]
    if left.dtype.kind not in "fc":
        same = left == right
        real = ~same
        for noise in [each != left for each in variants] + ([] if tied is None else [tied]):
            real &= ~noise
        return Line(
            output=name,
            batch=size,
            rows=len(left),
            relative_error=float(np.mean(~same)) if left.size else 0.0,
            agreement=float(np.mean(same)) if left.size else 1.0,
            changed=float(np.mean(real)) if left.size else 0.0,
        )
    left, right = left.astype(np.float64), right.astype(np.float64)
    noise = np.zeros_like(left)
    for each in variants:
        # Twice: the model may fall to one side where the nudged source fell to the other.
        noise = np.maximum(noise, 2 * _gaps(left, each.astype(np.float64)))
    scale = max(float(np.abs(left[np.isfinite(left)]).max(initial=0.0)), 1e-6)
    gaps = _gaps(left, right)
    over = _by_row(gaps) > tolerance * scale
    beyond = _by_row(gaps - noise) > tolerance * scale
    agreement, changed = _decisions(left, right, tolerance * scale + noise)
    return Line(
        output=name,
        batch=size,
        rows=len(left),
        relative_error=float(gaps.max(initial=0.0) / scale),
        agreement=agreement,
        deviating=float(np.mean(beyond)),
        changed=changed,
        on_edge=float(np.mean(over & ~beyond)),
    )


def ties(scores: list[Array | None], tolerance: float) -> Array | None:
    """For each row, whether its two best scores are closer than the model may be off."""
    given = [each for each in scores if each is not None]
    if not given or given[0].ndim != 2 or given[0].shape[1] < 2:
        return None
    best = np.sort(np.concatenate(given), axis=1)
    close: Array = best[:, -1] - best[:, -2] <= 2 * tolerance * np.abs(best).max()
    return close


def _joined(batches: list[Array]) -> Array:
    """The rows of all batches; of the first alone, where other lengths cannot be put together."""
    if not batches[0].ndim:
        return np.stack(batches)
    return np.concatenate([each for each in batches if each.shape[1:] == batches[0].shape[1:]])


def _by_row(array: Array) -> Array:
    largest: Array = array.reshape(len(array), -1).max(axis=1, initial=0.0)
    return largest


def _gaps(left: Array, right: Array) -> Array:
    with np.errstate(invalid="ignore"):
        gaps: Array = np.abs(left - right)
    gaps[(left == right) | (np.isnan(left) & np.isnan(right))] = 0.0
    return np.where(np.isfinite(gaps), gaps, np.inf)


def _decisions(left: Array, right: Array, noise: Array) -> tuple[float | None, float]:
    """Share of equal argmaxes, and share that changed although the source was not near a tie."""
    if left.ndim < 2 or left.shape[-1] < 2 or not left.size:
        return None, 0.0
    before, after = left.argmax(axis=-1)[..., None], right.argmax(axis=-1)[..., None]
    margin = np.take_along_axis(left, before, -1) - np.take_along_axis(left, after, -1)
    near = np.take_along_axis(noise, before, -1) + np.take_along_axis(noise, after, -1)
    return float(np.mean(before == after)), float(np.mean((before != after) & ~(margin <= near)))
