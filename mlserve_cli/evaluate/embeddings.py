"""How near embeddings lie to others of the same rows: by angle, and by who is next to whom.

An embedding decides nothing by itself. What is asked of it is which other one it is nearest to, so
that is its decision; and that changes little while the angle to what it was does.

    cosine       of each row, between its two embeddings; 1.0 where the direction is the same
    neighbours   of each row, 1 where the row nearest to it is the same by both, else 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlserve_cli.errors import DataError
from mlserve_cli.evaluate.proportions import wilson
from mlserve_cli.package.interval import Interval
from mlserve_cli.runtime.feedback.decisions import WIDEST
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import ValuesOutput
from mlserve_cli.runtime.tensors import Array, Tensors, TensorSpec

NAMES = ("embed", "last_hidden_state", "pooler_output")
"""What exporters call such outputs; the first that fits is compared."""

TIE = 1e-5
"""Of a cosine. The same text twice is two rows at the same place, up to float32's rounding over
some hundred products; either of them is the nearest."""

_BLOCK = 1 << 24
"""Cosines that are in memory at once, of each of the two: 64 MiB."""


def output_of(manifest: Manifest) -> TensorSpec | None:
    """The output that holds an embedding; None for a model that decides on a class or a value.

    A declared output of values is one where it is called so, or is wider than what a regression
    answers. Where nothing is declared, and there are no labels, only the name tells.
    """
    declared = manifest.processing.output
    floats = [
        spec
        for spec in manifest.outputs
        if spec.datatype in ("FP16", "FP32", "FP64") and len(spec.shape) > 1
    ]
    if isinstance(declared, ValuesOutput):
        named = [spec for spec in floats if spec.name == declared.tensor]
        return next((spec for spec in named if _is_called(spec, NAMES[0]) or _is_wide(spec)), None)
    if declared is not None or manifest.labels:
        return None
    return next((spec for name in NAMES for spec in floats if _is_called(spec, name)), None)


def vectors(outputs: Tensors, manifest: Manifest) -> Array:
    """(batch, size) float32. Dimensions that a request may choose, such as tokens, are averaged.

    Padding is averaged too: both packages are given the same.
    """
    spec = output_of(manifest)
    if spec is None:
        raise ValueError(f"'{manifest.name}' has no output that holds an embedding")
    array = outputs[spec.name].astype(np.float32)
    free = [axis for axis in range(1, array.ndim) if isinstance(spec.shape[axis], str)]
    if len(free) == array.ndim - 1:
        free.pop()  # where nothing is said of any, the last holds the numbers of a place
    return np.asarray(array.mean(axis=tuple(free))).reshape(array.shape[0], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Of n rows, how many keep their nearest neighbour.

    apart: the mean cosine of two different rows, in the embeddings that were compared with. Where
    it is large, all rows lie in one direction, and a cosine near to 1 says less.
    """

    n: int
    same: int
    apart: float

    def interval(self) -> Interval:
        """Of the share of rows, 0 … 1, at 95 % (Wilson)."""
        return wilson(self.same, self.n)

    def facts(self) -> dict[str, Any]:
        """For the evidence and `--json`: the shares are 0 … 1."""
        ends = self.interval()
        return {
            "n": self.n,
            "same": self.same,
            "share": self.same / self.n,
            "low": ends.low,
            "high": ends.high,
            "interval": "95 %, Wilson",
            "cosine_of_other_rows": self.apart,
        }

    def sentence(self) -> str:
        """For example "93.6 % of the rows keep their nearest neighbour (95 % 91.1 … 95.4) …"."""
        ends = self.interval().scaled(100)
        return (
            f"{100 * self.same / self.n:.1f} % of the {self.n:,} rows keep their nearest neighbour "
            f"(95 % {ends.low:.1f} … {ends.high:.1f}); two different rows have a cosine of "
            f"{self.apart:.2f} on average"
        )


class Embeddings:
    """Two embeddings of each row, gathered batch by batch: those found, and those wanted."""

    def __init__(self) -> None:
        self._found: list[Array] = []
        self._wanted: list[Array] = []

    def take(self, found: Array, wanted: Array) -> None:
        """Add a batch, (batch, size) each. Raises `DataError` for another size."""
        if found.shape != wanted.shape:
            raise DataError(
                f"the model answers embeddings of {found.shape[-1]} numbers, and the targets have "
                f"the shape {wanted.shape}.",
                hint="compare with a package whose embeddings are as long",
            )
        self._found.append(_unit(found))
        self._wanted.append(_unit(wanted))

    def cosines(self) -> Array:
        """(n,) float64 in -1 … 1; NaN for a row whose embedding holds a NaN."""
        found, wanted = self._joined()
        cosines = np.einsum("ij,ij->i", found, wanted, dtype=np.float64)
        cosines[(found == wanted).all(axis=1)] = 1.0  # without rounding; zeros too
        return np.asarray(np.clip(cosines, -1.0, 1.0))

    def kept(self) -> Array:
        """(n,) float64, 1 where the nearest other row is the same; a tie counts as the same.

        Raises `DataError` for a single row.
        """
        found, wanted = self._joined()
        count = len(found)
        if count < 2:
            raise DataError(
                "one row has no neighbours to compare.", hint="give some hundred rows or more"
            )
        same = np.empty(count, dtype=np.float64)
        step = max(1, _BLOCK // count)
        for start in range(0, count, step):
            rows = np.arange(start, min(start + step, count))
            here = np.arange(len(rows))
            seen, truly = found[rows] @ found.T, wanted[rows] @ wanted.T
            for cosines in (seen, truly):
                cosines[np.isnan(cosines)] = -2.0
                cosines[here, rows] = -3.0  # a row is not its own neighbour
            same[rows] = truly[here, seen.argmax(axis=1)] >= truly.max(axis=1) - TIE
        # argmax of a row of NaN is some row, and no neighbour.
        same[np.isnan(found).any(axis=1) | np.isnan(wanted).any(axis=1)] = 0.0
        return same

    def neighbours(self) -> Neighbours | None:
        """How many rows keep their nearest neighbour; None for a single row."""
        found, wanted = self._joined()
        count = len(found)
        if count < 2:
            return None
        whole = wanted[~np.isnan(wanted).any(axis=1)].astype(np.float64)
        # The sum over all pairs is the square of the sum; those of a row with itself are taken out.
        pairs = np.square(whole.sum(axis=0)).sum() - np.square(whole).sum()
        apart = float(pairs / max(1, len(whole) * (len(whole) - 1)))
        same = count if np.array_equal(found, wanted) else int(self.kept().sum())
        return Neighbours(n=count, same=same, apart=apart)

    def _joined(self) -> tuple[Array, Array]:
        if len(self._found) > 1:
            self._found = [np.concatenate(self._found)]
            self._wanted = [np.concatenate(self._wanted)]
        return self._found[0], self._wanted[0]


def _unit(array: Array) -> Array:
    """Each row divided by its length, float32; zeros stay."""
    values = array.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, np.finfo(np.float64).tiny), dtype=np.float32)


def _is_called(spec: TensorSpec, name: str) -> bool:
    return name in spec.name.lower()


def _is_wide(spec: TensorSpec) -> bool:
    last = spec.shape[-1]
    return isinstance(last, int) and last > WIDEST
