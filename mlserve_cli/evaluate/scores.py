"""A metric in the making: fed batch by batch, it keeps one value a row, or all rows for one number.

Which of the two is seen at the first batch, by what metric() answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlserve_cli.errors import DataError, DefinitionError, MlserveError
from mlserve_cli.evaluate import metrics
from mlserve_cli.evaluate.constant import Classes, Constant
from mlserve_cli.evaluate.embeddings import Embeddings, Neighbours
from mlserve_cli.package.definition import Metric, to_array
from mlserve_cli.package.interval import draws
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Array, Tensors, rows

Targets = Array | Tensors


class Scores:
    """The values of one metric so far."""

    def __init__(
        self,
        manifest: Manifest,
        metric: Metric | None,
        function: Callable[[Any, Any], Any] | None,
    ) -> None:
        self._manifest = manifest
        self._asked = metric
        self._metric = metric if function else None
        self._own = function
        self._function: metrics.Function | None = _adapted(function) if function else None
        self._parts: list[Array] = []  # one value a row
        self._outputs: list[Tensors] = []  # for a metric that is one number
        self._targets: list[Targets] = []
        self._whole: bool | None = None
        self._embeddings: Embeddings | None = None
        self._ends: list[float] = []  # smallest and largest value of each batch
        self._hash = hashlib.sha256()
        self._classes = Classes()
        self.n = 0
        self.nan_rows = 0

    @property
    def metric(self) -> Metric:
        """What is measured; known once the first batch was taken."""
        if self._metric is None:
            return self._asked or metrics.ACCURACY
        return self._metric

    def take(self, outputs: Tensors, targets: Any, *, agreement: bool = False) -> None:
        """Add a batch. `agreement`: the targets are another package's decisions."""
        count = rows(outputs)
        wanted = _targets(targets, count)
        asked = metrics.of_embeddings(self._asked, self._manifest, agreement=agreement)
        if asked is not None and (agreement or self._own is None):
            self._take_embeddings(asked, outputs, wanted)
            return
        self._hash.update(_bytes(wanted))
        self._classes.take(wanted)
        if self._function is None or (agreement and self._own is not None):
            asked = metrics.AGREEMENT if agreement else self._asked
            if isinstance(wanted, dict):
                raise DefinitionError(
                    f"the targets are a dict of {', '.join(wanted)}; no built-in metric fits.",
                    hint="write metric(outputs, targets) in the definition",
                )
            self._own = None
            self._metric, self._function = metrics.choose(asked, self._manifest, outputs, wanted)
        if agreement and not isinstance(wanted, dict) and self.metric.name == metrics.MAE.name:
            finite = wanted[np.isfinite(wanted)]
            self._ends += [float(end(finite)) for end in (np.min, np.max) if finite.size]
        missing = _nan_rows(outputs, count)
        self.nan_rows += int(missing.sum())
        self.n += count
        if self._whole:
            self._keep(outputs, wanted)
            return
        answer = self._answered(outputs, wanted)
        if self._whole is None:
            self._whole = answer.ndim == 0
            if self._whole:
                self._keep(outputs, wanted)
                return
        self._parts.append(self._checked(answer, count, missing))

    def _take_embeddings(self, metric: Metric, outputs: Tensors, wanted: Targets) -> None:
        if isinstance(wanted, dict) or wanted.dtype.kind not in "fiu" or wanted.ndim < 2:
            raise DataError(
                f"the metric '{metric.name}' needs embeddings as targets, (batch, size) numbers.",
                hint="give a list of numbers a row, or rows without targets and a package whose "
                "output is declared: PROCESSING = {'output': {'kind': 'values', 'tensor': …}}",
            )
        found = metrics.embedded(outputs, self._manifest)
        if self._embeddings is None:
            self._metric, self._whole, self._embeddings = metric, False, Embeddings()
        wanted = wanted.reshape(len(wanted), -1)
        self._embeddings.take(found, wanted)
        # By its largest number each, which another run of the same package does not move.
        self._hash.update(_bytes(np.abs(wanted).argmax(axis=1)))
        self.nan_rows += int(_nan_rows(outputs, len(found)).sum())
        self.n += len(found)

    def neighbours(self) -> Neighbours | None:
        """How many rows keep their nearest neighbour; None where no embeddings are judged."""
        return None if self._embeddings is None else self._embeddings.neighbours()

    def per_sample(self) -> Array | None:
        """(n,) float64, or None where the metric is one number for all rows."""
        if self._embeddings is not None:
            is_angle = self.metric.name == metrics.COSINE.name
            return self._embeddings.cosines() if is_angle else self._embeddings.kept()
        return None if self._whole else np.concatenate(self._parts)

    def whole(self) -> tuple[float, Array]:
        """The metric over all rows, and over each seeded draw of them, (resamples,)."""
        outputs = _joined(self._outputs)
        targets = _joined_targets(self._targets)
        point = self._number(outputs, targets)
        resampled = []
        for chosen in draws(self.n):
            try:
                resampled.append(
                    self._number(
                        {name: array[chosen] for name, array in outputs.items()},
                        {name: array[chosen] for name, array in targets.items()}
                        if isinstance(targets, dict)
                        else targets[chosen],
                    )
                )
            except MlserveError:
                # A draw may hold one class only, for which some metrics have no value.
                resampled.append(float("nan"))
        found = np.array(resampled)
        if np.isnan(found).mean() > 0.5:
            raise DefinitionError(
                f"metric() has no value for most resamples of the {self.n} rows, "
                "so there is no interval.",
                hint="evaluate with more rows, or return one value a row",
            )
        return point, found

    def spread(self) -> float | None:
        """From the smallest to the largest of another package's values; None of anything else."""
        return max(self._ends) - min(self._ends) if self._ends else None

    def fingerprint(self) -> str:
        """A digest of all targets, in their order."""
        return self._hash.hexdigest()

    def constant(self) -> Constant | None:
        """The commonest class; None unless rows are right or wrong by a class each."""
        values = self.per_sample()
        if self.metric.name != metrics.ACCURACY.name or not self.metric.higher_is_better:
            return None
        if values is None or not np.isin(values, (0.0, 1.0)).all():
            return None
        return self._classes.constant()

    def _keep(self, outputs: Tensors, targets: Targets) -> None:
        self._outputs.append(outputs)
        self._targets.append(targets)

    def _answered(self, outputs: Tensors, targets: Targets) -> Array:
        if self._function is None:
            raise RuntimeError("a metric is chosen with the first batch")
        return _answer(self._function(outputs, targets))

    def _number(self, outputs: Tensors, targets: Targets) -> float:
        answer = self._answered(outputs, targets)
        if answer.ndim:
            raise DefinitionError(
                f"metric() answered one number for the first batch and the shape {answer.shape} "
                "later.",
                hint="it returns one value a row, or one number, always the same",
            )
        return float(answer)

    def _checked(self, answer: Array, count: int, missing: Array) -> Array:
        if answer.shape == (count, 1):
            answer = answer[:, 0]
        if answer.shape != (count,):
            raise DefinitionError(
                f"metric() answered the shape {answer.shape} for {count} rows.",
                hint="it returns one value a row, or one number for all",
            )
        values: Array = answer.astype(np.float64)
        finite = values[~missing]
        if self.metric.higher_is_better and np.isin(finite, (0.0, 1.0)).all():
            values[missing] = 0.0  # argmax takes NaN for the best score; it is no answer
        return values


def _adapted(function: Callable[[Any, Any], Any]) -> metrics.Function:
    def call(outputs: Tensors, targets: Any) -> Any:
        given = {name: _text(array) for name, array in outputs.items()}
        wanted = (
            {name: _text(array) for name, array in targets.items()}
            if isinstance(targets, dict)
            else _text(targets)
        )
        return function(next(iter(given.values())) if len(given) == 1 else given, wanted)

    return call


def _text(array: Array) -> Array:
    if array.dtype.kind != "O":
        return array
    flat = [item.decode("utf-8", "replace") for item in array.flat]
    return np.array(flat, dtype=np.str_).reshape(array.shape)


def _targets(targets: Any, count: int) -> Targets:
    if isinstance(targets, Mapping):
        by_name = {str(name): to_array(value) for name, value in targets.items()}
        for name, array in by_name.items():
            _check_length(array, count, f"the targets '{name}'")
        return by_name
    array = to_array(targets)
    _check_length(array, count, "the targets")
    return array


def _check_length(array: Array, count: int, what: str) -> None:
    found = array.shape[0] if array.ndim else "no"
    if found != count:
        raise DataError(
            f"{what} of a batch have {found} rows, and its inputs have {count}.",
            hint="each batch is (inputs, targets) with one target a row",
        )


def _nan_rows(outputs: Tensors, count: int) -> Array:
    missing: Array = np.zeros(count, dtype=np.bool_)
    for array in outputs.values():
        if array.dtype.kind == "f":
            missing |= np.isnan(array.reshape(count, -1)).any(axis=1)
    return missing


def _answer(answer: Any) -> Array:
    array = to_array(answer)
    if array.dtype.kind not in "fiub":
        raise DefinitionError(
            f"metric() answered {type(answer).__name__}, where it must answer numbers.",
            hint="it returns one value a row, or one number for all",
        )
    return array


def _bytes(targets: Targets) -> bytes:
    if isinstance(targets, dict):
        return b"".join(name.encode() + _bytes(targets[name]) for name in sorted(targets))
    if targets.dtype.kind == "O":
        return b"".join(len(item).to_bytes(8, "little") + item for item in targets.flat)
    return np.ascontiguousarray(targets).tobytes()


def _joined(parts: list[Tensors]) -> Tensors:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _joined_targets(parts: list[Targets]) -> Targets:
    if isinstance(parts[0], dict):
        return _joined([part for part in parts if isinstance(part, dict)])
    return np.concatenate([part for part in parts if not isinstance(part, dict)])
