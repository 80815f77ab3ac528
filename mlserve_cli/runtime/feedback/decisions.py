"""What an answer decided about each row, and whether the truth agrees.

A classifier decides on a class, a regressor on a value. Which of the two a model is, its package
says: by its declared processing, else by its labels and the shapes of its outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..manifest import Manifest
from ..processing.declaration import ClassesOutput, ValuesOutput
from ..tensors import Array, Tensors, TensorSpec

Truth = str | int | float | bool | tuple[float, ...]
"""A label, a class's number, a value, or a row of values."""

WIDEST = 64
"""Values of one row; more of them are a picture or a text, not a decision."""

LONGEST = 256
"""Characters of a label; what is longer is a text that was made, not a class."""


class Undecided(Exception):
    """These outputs decide nothing about their rows."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A class was right, or not."""

    right: bool


@dataclass(frozen=True, slots=True)
class Error:
    """How far a value lay from the truth; of a row of values, the means over it."""

    absolute: float
    squared: float


Verdict = Agreement | Error


class Decider(Protocol):
    """How one version of a model decides."""

    def decide(self, outputs: Tensors, rows: int) -> list[Any]:
        """One decision a row, small and of its own memory. Raises `Undecided`."""
        ...

    def verdict(self, decided: Any, truth: Truth) -> Verdict | None:
        """What `truth` says about a decision; None where it is no answer of this model's kind."""
        ...

    def shown(self, decided: Any) -> Any:
        """A decision as a person reads it: a label where there is one."""
        ...


class Classes:
    """Scores (batch, classes) → the number of the best class; a threshold changes nothing."""

    def __init__(self, spec: TensorSpec, labels: tuple[str, ...]) -> None:
        last = spec.shape[-1] if len(spec.shape) > 1 else 1
        self._name = spec.name
        self._labels = labels
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._count = max(last, len(labels)) if isinstance(last, int) else None

    def decide(self, outputs: Tensors, rows: int) -> list[Any]:
        """The best class of each row; of equal scores the first, and NaN is never the best."""
        array = outputs[self._name]
        if rows == 1 and array.ndim and len(array) == 1 and array.size:  # most of them, in a third
            alone = int(array.argmax())
            if array.item(alone) == array.item(alone):  # not NaN, which argmax takes for the best
                return [alone]
        scores = _rows_of(outputs, self._name, rows)
        best = scores.argmax(axis=1)
        if scores.dtype.kind == "f" and np.isnan(scores[np.arange(rows), best]).any():
            best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
        return list(best.tolist())

    def verdict(self, decided: Any, truth: Truth) -> Verdict | None:
        """Whether it is the class of that label or number; a label that looks like one is one."""
        whole = _whole(truth)
        number = self._numbers.get(truth if isinstance(truth, str) else str(whole))
        if number is None:
            number = whole
        if number is None or number < 0 or (self._count is not None and number >= self._count):
            return None
        return Agreement(decided == number)

    def shown(self, decided: Any) -> Any:
        """The label of the class."""
        return self._labels[decided] if decided < len(self._labels) else decided


class Labels:
    """An output that holds the class itself, as a number or a text: (batch,) or (batch, 1)."""

    def __init__(self, spec: TensorSpec, labels: tuple[str, ...]) -> None:
        self._name = spec.name
        self._is_text = spec.datatype == "BYTES"
        self._numbers = {label: number for number, label in enumerate(labels)}

    def decide(self, outputs: Tensors, rows: int) -> list[Any]:
        """The class of each row."""
        found = _rows_of(outputs, self._name, rows)
        if found.shape[1] != 1:
            raise Undecided
        if not self._is_text:
            return [int(item) for item in found[:, 0]]
        texts = [
            item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
            for item in found[:, 0]
        ]
        if any(len(text) > LONGEST for text in texts):
            raise Undecided
        return texts

    def verdict(self, decided: Any, truth: Truth) -> Verdict | None:
        """Whether it is that class."""
        if isinstance(truth, tuple):
            return None
        if self._is_text:
            if self._numbers and str(truth) not in self._numbers:
                return None
            return Agreement(decided == str(truth))
        number = self._numbers.get(truth) if isinstance(truth, str) else None
        number = _whole(truth) if number is None else number
        return None if number is None else Agreement(decided == number)

    def shown(self, decided: Any) -> Any:
        """The class as the output holds it."""
        return decided


class Values:
    """A regression: (batch,), (batch, 1), or several values a row."""

    def __init__(self, spec: TensorSpec) -> None:
        self._name = spec.name

    def decide(self, outputs: Tensors, rows: int) -> list[Any]:
        """The value of each row, or a tuple of them."""
        found = _rows_of(outputs, self._name, rows)
        if found.shape[1] > WIDEST or found.dtype.kind not in "biuf":
            raise Undecided
        if found.shape[1] == 1:
            return [float(value) for value in found[:, 0].tolist()]
        return [tuple(map(float, values)) for values in found.tolist()]

    def verdict(self, decided: Any, truth: Truth) -> Verdict | None:
        """How far apart they are; None for another number of values, or one that is not finite."""
        if isinstance(truth, str):
            return None
        wanted = truth if isinstance(truth, tuple) else (truth,)
        got = decided if isinstance(decided, tuple) else (decided,)
        if len(wanted) != len(got):
            return None
        distances = [abs(one - other) for one, other in zip(got, wanted, strict=True)]
        absolute = sum(distances) / len(distances)
        squared = sum(distance * distance for distance in distances) / len(distances)
        finite = math.isfinite(absolute) and math.isfinite(squared)
        return Error(absolute, squared) if finite else None

    def shown(self, decided: Any) -> Any:
        """The value."""
        return decided


def decider(manifest: Manifest) -> Decider | None:
    """How a model decides; None where nothing tells.

    In this order: the declared processing; scores for every label; an output that holds the class
    itself, as scikit-learn's converters write it; a lone number a row; scores without labels.
    """
    declared = manifest.processing.output
    named = {spec.name: spec for spec in manifest.outputs}
    if declared is not None and declared.tensor in named:
        spec = named[declared.tensor]
        if isinstance(declared, ClassesOutput):
            return Classes(spec, manifest.labels)
        if isinstance(declared, ValuesOutput):
            return Values(spec)
    floats = [spec for spec in manifest.outputs if spec.datatype in ("FP16", "FP32", "FP64")]
    for spec in floats:
        if len(manifest.labels) > 1 and spec.shape[1:] == (len(manifest.labels),):
            return Classes(spec, manifest.labels)
    for spec in manifest.outputs:
        if spec not in floats and spec.shape and spec.shape[1:] in ((), (1,)):
            return Labels(spec, manifest.labels)
    if len(floats) == 1 and floats[0].shape:
        return (
            Values(floats[0])
            if floats[0].shape[1:] in ((), (1,))
            else Classes(floats[0], manifest.labels)
            if len(floats[0].shape) == 2
            else None
        )
    return None


def _rows_of(outputs: Tensors, name: str, rows: int) -> Array:
    """An output as (rows, n). Raises `Undecided` where it has no n > 0 values for each row."""
    array = outputs[name]
    if not array.ndim or array.shape[0] != rows or not array.size:
        raise Undecided
    return array.reshape(rows, -1)


def _whole(truth: Truth) -> int | None:
    """A truth as a whole number: 2, 2.0, "2" or true; None where it is none."""
    if isinstance(truth, tuple):
        return None
    if isinstance(truth, str):
        return int(truth) if truth.isdecimal() else None
    return int(truth) if isinstance(truth, int) or truth.is_integer() else None
