"""Are these rows fit to calibrate with? Each doubt is a sentence; none of them stops the work.

Ranges are only as good as the rows they come from: too few, noise where pictures are expected, one
class alone, the same row again and again. What can be seen of that without knowing the task is
looked for here, against the package's own real rows where it has some.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlserve_cli.package.package import Package
from mlserve_cli.quantize.calibration.collection import LAST, Collected
from mlserve_cli.quantize.calibration.rows import CalibrationRows
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.tensors import Array, Tensors, rows

GROWTH = 0.05
"""A range that a quarter of the rows widens by more is not found yet."""

FEW = 16
EXAMINED = 512
"""Rows that are held in memory to be looked at."""

EQUAL = 0.2
"""The share of repeated, or of constant, rows that is worth a sentence."""

NOISE = 0.1
SMOOTH = 0.3
"""Correlation of neighbouring values: below the first is noise, above the second a picture, a
sound or a sequence."""

SHIFT = 1.0
"""Standard deviations between the means of calibration and real rows, or e-folds between their
deviations: beyond, they are of different kinds (pixels in 0 … 255 where 0 … 1 is meant)."""


@dataclass(frozen=True, slots=True)
class Review:
    """What was seen. growth: of the tensors' ranges over the last quarter, on average."""

    rows: int
    digest: str
    growth: float | None
    warnings: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """For the evidence."""
        summary = f"{self.rows} rows"
        if self.growth is not None:
            summary += f"; the last quarter widened the ranges by {self.growth:.1%}"
        return {
            "summary": "; ".join([summary, *(each.rstrip(".") for each in self.warnings)]),
            "rows": self.rows,
            "rows_digest": f"sha256:{self.digest}",
            "growth": self.growth,
            "warnings": list(self.warnings),
        }


def review(parent: Package, calibration: CalibrationRows, collected: Collected | None) -> Review:
    """Look at the calibration rows of a package beside its own, and at our ranges if there are."""
    known = collected.growth if collected else {}
    growth = float(np.mean(list(known.values()))) if known else None
    sample = _first(calibration)
    warnings = [
        *_size(calibration.count, growth),
        *_sameness(sample),
        *_kind(sample, parent),
        *_decisions(sample, parent),
    ]
    return Review(calibration.count, calibration.digest, growth, tuple(warnings))


def _first(calibration: CalibrationRows) -> list[Tensors]:
    found: list[Tensors] = []
    count = 0
    for batch in calibration.parts(EXAMINED):
        found.append(batch)
        count += rows(batch)
        if count >= EXAMINED:
            break
    return found


def _size(count: int, growth: float | None) -> Iterator[str]:
    if count < FEW:
        noun = "row is" if count == 1 else "rows are"
        yield f"{count} calibration {noun} too few to find ranges: a hundred or more are usual."
    elif growth is not None and growth > GROWTH:
        yield (
            f"ranges still grow by {growth:.0%} over the last {LAST:.0%} of the calibration rows: "
            "more rows are needed."
        )


def _sameness(sample: list[Tensors]) -> Iterator[str]:
    seen: dict[bytes, int] = {}
    constant = count = 0
    for batch in sample:
        floats = [array for array in batch.values() if array.dtype.kind == "f" and array.ndim > 1]
        for row in range(rows(batch)):
            digest = hashlib.sha256()
            for array in batch.values():
                part = array[row] if array.ndim else array
                digest.update(
                    repr(part.tolist()).encode()
                    if array.dtype.kind == "O"
                    else np.ascontiguousarray(part).tobytes()
                )
            seen[digest.digest()] = seen.get(digest.digest(), 0) + 1
            constant += bool(floats) and all(
                array[row].size > 1 and np.ptp(array[row]) == 0 for array in floats
            )
            count += 1
    repeated = count - len(seen)
    if repeated > EQUAL * count:
        yield f"{repeated} of {count} calibration rows repeat another one."
    if constant > EQUAL * count:
        yield f"{constant} of {count} calibration rows hold one value everywhere."


def _kind(sample: list[Tensors], parent: Package) -> Iterator[str]:
    known = parent.manifest.sample == "real"
    real = golden.read(parent.serve).inputs if known else {}
    for name in sample[0]:
        arrays = [batch[name] for batch in sample if batch[name].dtype.kind == "f"]
        if not arrays or arrays[0].ndim < 2:
            continue
        mine = _neighbours(arrays)
        theirs = _neighbours([real[name]]) if name in real else None
        pictured = arrays[0].ndim == 4 if theirs is None else theirs > SMOOTH
        if mine is not None and pictured and abs(mine) < NOISE:
            beside = "" if theirs is None else f", and {theirs:.2f} in the package's own rows"
            yield (
                f"input '{name}' of the calibration rows looks like random noise: the correlation "
                f"of neighbouring values is {mine:.2f}{beside}."
            )
        elif name in real:
            yield from _shift(name, arrays, real[name])


def _neighbours(arrays: list[Array]) -> float | None:
    """The correlation of values with the next one along the last axis; None without an order."""
    if arrays[0].ndim < 3:
        return None
    pairs = [(a[..., :-1].ravel(), a[..., 1:].ravel()) for a in arrays]
    left = np.concatenate([pair[0] for pair in pairs]).astype(np.float64)
    right = np.concatenate([pair[1] for pair in pairs]).astype(np.float64)
    if left.size < 100 or not left.std() or not right.std():
        return None
    return float(np.corrcoef(left, right)[0, 1])


def _shift(name: str, arrays: list[Array], real: Array) -> Iterator[str]:
    if real.shape[0] < 8:
        return
    mine = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
    theirs = real.astype(np.float64).ravel()
    theirs = theirs[np.isfinite(theirs)]
    if not theirs.size or not theirs.std() or not mine.std():
        return
    apart = abs(mine.mean() - theirs.mean()) / theirs.std()
    spread = abs(np.log(mine.std() / theirs.std()))
    if apart > SHIFT or spread > SHIFT:
        yield (
            f"input '{name}' of the calibration rows has mean {mine.mean():.3g} and standard "
            f"deviation {mine.std():.3g}; the package's own rows have {theirs.mean():.3g} and "
            f"{theirs.std():.3g}."
        )


def _decisions(sample: list[Tensors], parent: Package) -> Iterator[str]:
    """Whether the float model decides the same for every row, though it knows other answers."""
    only = parent.manifest.fixed_batch or parent.manifest.batch.max_batch
    engine = parent.engine()
    try:
        decided: list[int] = []
        for batch in sample:
            step = only or rows(batch)
            for start in range(0, rows(batch) - step + 1, step):
                part = {k: v[start : start + step] if v.ndim else v for k, v in batch.items()}
                decided += _classes(engine.run(part))
    finally:
        engine.close()
    if len(decided) >= FEW and len(set(decided)) == 1:
        labels = parent.manifest.labels
        what = labels[decided[0]] if decided[0] < len(labels) else str(decided[0])
        yield (
            f"the model answers '{what}' to all {len(decided)} calibration rows examined: the "
            "other classes' values are not seen."
        )


def _classes(outputs: Tensors) -> list[int]:
    """The decisions of the first output that makes any: scores (rows, classes)."""
    for array in outputs.values():
        if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f":
            return [int(each) for each in array.argmax(axis=1)]
    return []
