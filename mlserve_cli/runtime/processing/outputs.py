"""Outputs → one JSON value a row: classes with labels, values, or the tensors as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import PackageError
from ..manifest import Manifest
from ..tensors import Array, Tensors, TensorSpec, rows
from .declaration import ClassesOutput, ValuesOutput


class ClassesWriter:
    """Scores (batch, classes) → `{"label", "score", "scores": {label: score}}`, best first."""

    def __init__(self, manifest: Manifest, declared: ClassesOutput) -> None:
        self._declared = declared
        spec = output_spec(manifest, declared.tensor)
        classes = spec.shape[-1] if len(spec.shape) > 1 else 1
        if isinstance(classes, int) and manifest.labels and len(manifest.labels) != classes:
            raise PackageError(
                f"'{manifest.name}' has {len(manifest.labels)} labels, "
                f"and its output '{spec.name}' has {classes} classes."
            )
        self._labels = manifest.labels

    def answers(self, outputs: Tensors, payloads: list[Any] | None = None) -> list[Any]:
        """Name the best classes of every row."""
        scores = outputs[self._declared.tensor]
        scores = scores.reshape(len(scores), -1).astype(np.float64)
        if self._declared.softmax:
            scores = softmax(scores)
        # Ties go to the lower index and NaN goes last, so that the same scores give one answer.
        best = np.argsort(np.where(np.isnan(scores), np.inf, -scores), axis=1, kind="stable")
        return [
            self._answer(row, order)
            for row, order in zip(scores, best[:, : self._declared.top_k], strict=True)
        ]

    def _answer(self, scores: Array, order: Array) -> dict[str, Any]:
        named = {self._label(int(index)): rounded(scores[index]) for index in order}
        label, score = next(iter(named.items()))
        threshold = self._declared.threshold
        certain = score is not None and (threshold is None or score >= threshold)
        return {"label": label if certain else None, "score": score, "scores": named}

    def _label(self, index: int) -> str:
        return self._labels[index] if index < len(self._labels) else str(index)


class ValuesWriter:
    """A regression: `{"value": 1.5}`, or `{"values": [...]}` where there are several a row."""

    def __init__(self, manifest: Manifest, declared: ValuesOutput) -> None:
        self._spec = output_spec(manifest, declared.tensor)

    def answers(self, outputs: Tensors, payloads: list[Any] | None = None) -> list[Any]:
        """One object a row."""
        values = outputs[self._spec.name]
        values = values.reshape(len(values), -1)
        if values.shape[1] == 1:
            return [{"value": item} for item in plain(values[:, 0])]
        return [{"values": items} for items in plain(values)]


class PlainWriter:
    """No declared processing: `{"output name": nested lists}` a row."""

    def __init__(self, manifest: Manifest) -> None:
        self._specs = manifest.outputs

    def answers(self, outputs: Tensors, payloads: list[Any] | None = None) -> list[Any]:
        """One object a row; an output that has no batch stands whole in each."""
        count = max(rows({name: array}) for name, array in outputs.items())
        columns = {
            name: plain(array)
            if rows({name: array}) == count and array.ndim
            else [plain(array)] * count
            for name, array in outputs.items()
        }
        return [{name: column[row] for name, column in columns.items()} for row in range(count)]


def softmax(scores: Array) -> Array:
    """Along the last axis; shifted by the maximum, so that large logits do not overflow."""
    with np.errstate(invalid="ignore"):  # rows of NaN or of infinities stay NaN
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        result: Array = powers / powers.sum(axis=-1, keepdims=True)
        return result


def plain(array: Array) -> Any:
    """Nested lists of JSON values; text is UTF-8, and float32 is written as short as it is."""
    if array.dtype.kind == "O":
        text = np.empty(array.size, dtype=np.object_)
        text[:] = [
            item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
            for item in array.flat
        ]
        return text.reshape(array.shape).tolist()
    if array.dtype.itemsize < 8 and array.dtype.kind == "f":
        # The shortest decimal that reads back as the same float32: 0.1 and not 0.10000000149.
        return np.array([float(str(item)) for item in array.flat]).reshape(array.shape).tolist()
    return array.tolist()


def rounded(value: Any) -> float | None:
    """Six digits, which are what float32 holds; JSON has no NaN."""
    return float(f"{float(value):.6g}") if np.isfinite(value) else None


def output_spec(manifest: Manifest, name: str) -> TensorSpec:
    """The model's output of this name. Raises `PackageError` where there is none."""
    for spec in manifest.outputs:
        if spec.name == name:
            return spec
    raise PackageError(
        f"the processing of '{manifest.name}' reads '{name}', which is no output of the model.",
        hint="its outputs are " + ", ".join(spec.name for spec in manifest.outputs),
    )
