"""The built-in metrics, and what of several outputs they look at.

    accuracy    integer or text targets: 1 where the decision is the target, else 0
    agreement   the same, where the targets are another package's decisions; of tokens the share
    mae         number targets: the absolute error of each row; lower is better
    rmse        number targets: the root of the mean squared error over all rows; lower is better
    cosine      embeddings as targets: the cosine between both, of each row
    neighbours  embeddings as targets: 1 where the nearest other row is the same one, else 0

A definition's METRIC may name one of them; then metric() need not be written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlserve_cli.errors import DataError, DefinitionError, StepError
from mlserve_cli.evaluate import embeddings
from mlserve_cli.package.definition import Metric
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    TextInput,
    TokensOutput,
    ValuesOutput,
)
from mlserve_cli.runtime.tensors import Array, Tensors

Function = Callable[[Tensors, Any], Any]
"""(all outputs by name, targets) → (batch,) values, or one number."""

ACCURACY = Metric()
AGREEMENT = Metric(name="agreement")
MAE = Metric(name="mae", higher_is_better=False, unit="")
RMSE = Metric(name="rmse", higher_is_better=False, unit="")
COSINE = Metric(name="cosine", unit="")
NEIGHBOURS = Metric(name="neighbours")

BUILT_IN: Mapping[str, Metric] = {
    metric.name: metric for metric in (ACCURACY, AGREEMENT, MAE, RMSE, COSINE, NEIGHBOURS)
}
OF_EMBEDDINGS = (COSINE.name, NEIGHBOURS.name)
"""Their targets are embeddings, and a row is judged beside all others."""


_PADDING = -2
"""In the place of a token's label; nobody is asked for it."""


def told(outputs: Tensors, inputs: Tensors, manifest: Manifest) -> Array:
    """What a package says of each row, to be held against another package: (batch, …).

    An embedding, (batch, size); the label of each token, (batch, length); else what `decisions`
    answers.
    """
    if embeddings.output_of(manifest) is not None:
        return embeddings.vectors(outputs, manifest)
    declared = manifest.processing
    if isinstance(declared.output, TokensOutput):
        labels = _token_labels(outputs, declared.output)
        mask = declared.input.mask if isinstance(declared.input, TextInput) else None
        return labels if mask not in inputs else np.where(inputs[mask] != 0, labels, _PADDING)
    return decisions(outputs, manifest)


def embedded(outputs: Tensors, manifest: Manifest) -> Array:
    """(batch, size): the output that is an embedding, or that a definition's METRIC makes one."""
    if embeddings.output_of(manifest) is not None:
        return embeddings.vectors(outputs, manifest)
    array = outputs[_decisive(outputs, manifest)]
    return array.reshape(array.shape[0], -1)


def of_embeddings(metric: Metric | None, manifest: Manifest, *, agreement: bool) -> Metric | None:
    """The metric where embeddings are judged: what the definition says, else their cosine.

    None where the model answers none, or they are held against targets of another kind.
    """
    if metric is not None and metric.name in OF_EMBEDDINGS:
        return metric
    is_asked = agreement and embeddings.output_of(manifest) is not None
    return COSINE if is_asked else None


def choose(
    metric: Metric | None, manifest: Manifest, outputs: Tensors, targets: Array
) -> tuple[Metric, Function]:
    """The built-in metric for data that looks like this, and its function.

    metric: what the definition says. "accuracy", also the default of a definition that says
    nothing, becomes "mae" where the targets or the answers are numbers on a scale. Metrics of
    embeddings are for `of_embeddings`.
    """
    declared = manifest.processing.output
    if metric == AGREEMENT and isinstance(declared, TokensOutput):
        return metric, lambda found, wanted: _tokens_alike(found, wanted, declared)
    numbers = _is_regression(manifest, outputs, targets)
    asked = metric or (MAE if numbers else ACCURACY)
    if asked.name not in BUILT_IN:
        raise DefinitionError(
            f"the metric '{asked.name}' is not built in, and the definition has no metric().",
            hint=f"write metric(outputs, targets), or take one of {', '.join(BUILT_IN)}",
        )
    if asked.name in ("accuracy", "agreement"):
        if not numbers:
            truth = asked.name == "accuracy"
            return asked, lambda found, wanted: accuracy(found, wanted, manifest, truth=truth)
        asked = MAE
    if targets.dtype.kind not in "fiub":
        raise DataError(
            f"the metric '{asked.name}' needs numbers as targets, and these are text.",
            hint="name the column that holds them with --column NAME",
        )
    function = rmse if asked.name == "rmse" else mae
    return asked, lambda found, wanted: function(found, wanted, manifest)


def accuracy(outputs: Tensors, targets: Array, manifest: Manifest, *, truth: bool = True) -> Array:
    """(batch,) float64: 1 where the decision is the target.

    truth: the targets are classes; else another model's decisions, which may be none (-1).

    targets: (batch,) or (batch, 1); integers are classes as the label output writes them, or
    indices into the scores; text is compared with the label output, or with the manifest's labels.
    """
    wanted = _column(targets, "the targets")
    found = decisions(outputs, manifest)
    if wanted.dtype.kind == "b":
        wanted = wanted.astype(np.int64)
    if wanted.dtype.kind == "f":  # whole numbers that came through a data frame
        wanted = _whole(wanted)
    if truth and wanted.dtype.kind in "iu" and found.dtype.kind != "O":
        _check_classes(wanted, outputs[_decisive(outputs, manifest)])
    if wanted.dtype.kind == "O" and found.dtype.kind != "O":
        found = _labelled(found, manifest)
    if wanted.dtype.kind != "O" and found.dtype.kind == "O":
        wanted = np.array([str(item).encode() for item in wanted], dtype=np.object_)
    return np.asarray(found == wanted, dtype=np.float64)


def _token_labels(outputs: Tensors, declared: TokensOutput) -> Array:
    """(batch, length) int64; -1 where a score is NaN."""
    scores = outputs[declared.tensor]
    return np.where(np.isnan(scores).any(axis=-1), -1, scores.argmax(axis=-1))


def _tokens_alike(outputs: Tensors, wanted: Array, declared: TokensOutput) -> Array:
    """(batch,) float64: the share of the tokens of each row that have the label of `wanted`."""
    real = wanted != _PADDING
    same = real & (_token_labels(outputs, declared) == wanted)
    return np.asarray(same.sum(axis=1) / np.maximum(real.sum(axis=1), 1), dtype=np.float64)


def mae(outputs: Tensors, targets: Array, manifest: Manifest) -> Array:
    """(batch,) float64: the absolute error, the mean over a row that holds several values."""
    return np.asarray(np.abs(_errors(outputs, targets, manifest)).mean(axis=1))


def rmse(outputs: Tensors, targets: Array, manifest: Manifest) -> float:
    """The root of the mean squared error over all rows."""
    return float(np.sqrt(np.mean(_errors(outputs, targets, manifest) ** 2)))


def decisions(outputs: Tensors, manifest: Manifest) -> Array:
    """What the model decides a row, (batch,): labels as it writes them, or the best score's index.

    A model that answers one number a row, or declares values, decides nothing; its numbers are
    returned as they are. Scores with a NaN among them decide for no class, -1.
    """
    array = outputs[_decisive(outputs, manifest)]
    if isinstance(manifest.processing.output, ValuesOutput) and array.size != array.shape[0]:
        return array
    if array.dtype.kind in "iubO" or array.ndim == 1 or array.shape[1] == 1:
        return _column(array, "the output")
    if array.ndim != 2:
        raise StepError(
            f"the scores of '{manifest.name}' have the shape {array.shape}; "
            "accuracy needs (batch, classes).",
            hint="write metric(outputs, targets) in the definition",
        )
    # argmax takes NaN for the best there is: a broken model would decide for one class, and be
    # right wherever that is the answer.
    return np.where(np.isnan(array).any(axis=1), -1, np.argmax(array, axis=1))


def _decisive(outputs: Tensors, manifest: Manifest) -> str:
    """The output that holds the decision: a label of one value a row, else the scores."""
    declared = manifest.processing.output
    labels = [
        name
        for name, array in outputs.items()
        if array.dtype.kind in "iubO" and array.size == array.shape[0]
    ]
    if isinstance(declared, (ClassesOutput, ValuesOutput)) and declared.tensor in outputs:
        # scikit-learn's converters give a label beside the probabilities: it is the decision.
        named = [name for name in labels if "label" in name.lower()]
        if isinstance(declared, ClassesOutput) and named:
            return named[0]
        return declared.tensor
    if len(outputs) == 1:
        return next(iter(outputs))
    if labels:
        return labels[0]
    scores = [name for name, array in outputs.items() if array.ndim == 2]
    if len(scores) == 1:
        return scores[0]
    raise StepError(
        f"'{manifest.name}' has the outputs {', '.join(outputs)}, "
        "and nothing says which of them to compare with the targets.",
        hint="declare PROCESSING = {'output': …}, or write metric(outputs, targets)",
    )


def _is_regression(manifest: Manifest, outputs: Tensors, targets: Array) -> bool:
    if targets.dtype.kind == "O":
        return False
    if isinstance(manifest.processing.output, ValuesOutput):
        return True
    if isinstance(manifest.processing.output, ClassesOutput):
        return False
    array = outputs[_decisive(outputs, manifest)]
    one_number = array.dtype.kind == "f" and array.size == array.shape[0]
    return targets.dtype.kind == "f" or one_number


def _errors(outputs: Tensors, targets: Array, manifest: Manifest) -> Array:
    found = outputs[_decisive(outputs, manifest)]
    count = found.shape[0]
    left = found.reshape(count, -1).astype(np.float64)
    right = targets.reshape(targets.shape[0], -1).astype(np.float64)
    if left.shape != right.shape:
        raise DataError(
            f"the model answers {left.shape[1]} numbers a row, "
            f"and the targets have {right.shape[1]}.",
            hint="classes must be whole numbers (int64) or text; "
            "values as many as the model answers",
        )
    return left - right


def _column(array: Array, what: str) -> Array:
    if array.size != array.shape[0]:
        raise DataError(
            f"{what} have the shape {array.shape}; accuracy needs one value a row.",
            hint="give the classes as numbers or text, or write metric(outputs, targets)",
        )
    return array.reshape(-1)


def _check_classes(wanted: Array, scores: Array) -> None:
    """A class that the model has no score for is never right: every variant would be as bad."""
    if scores.dtype.kind != "f" or scores.ndim != 2 or scores.shape[1] == 1:
        return
    outside = wanted[(wanted < 0) | (wanted >= scores.shape[1])]
    if len(outside):
        raise DataError(
            f"the target {outside[0]} is no class of the model, whose {scores.shape[1]} scores "
            f"are of the classes 0 to {scores.shape[1] - 1}.",
            hint="number the classes as the scores are ordered, or write "
            "metric(outputs, targets) in the definition",
        )


def _whole(targets: Array) -> Array:
    whole = targets.astype(np.int64)
    if not np.array_equal(whole, targets):
        raise DataError("the targets are no classes: they hold fractions or NaN.")
    return whole


def _labelled(indices: Array, manifest: Manifest) -> Array:
    labels = manifest.labels
    if not labels:
        raise DataError(
            f"the targets are text, and the package '{manifest.name}' has no labels to map them.",
            hint="give LABELS in the definition, or the classes as numbers",
        )
    names = np.empty(len(indices), dtype=np.object_)
    names[:] = [
        labels[int(index)].encode() if 0 <= int(index) < len(labels) else b"" for index in indices
    ]
    return names
