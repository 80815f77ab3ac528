"""A fitted scikit-learn estimator or pipeline → ONNX, compared with its own predictions.

sample() an array of numbers     one input "input", (batch, columns) float32
sample() an array of text        one input "text" of the same rank
sample() a dict                  one input a column, (batch, 1), by its name

A classifier answers "label" and "probabilities" (or "scores", where it has no predict_proba), a
regressor "prediction", a transformer "features".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.errors import DefinitionError, StepError, needs_extra
from mlserve_cli.export import conversion, rows
from mlserve_cli.export.origin import Origin
from mlserve_cli.graph import parity
from mlserve_cli.package.definition import Definition, to_array
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import engines, tensors
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.processing.declaration import ClassesOutput, ValuesOutput
from mlserve_cli.runtime.tensors import Array, Tensors, TensorSpec

TOLERANCE = 1e-3
"""scikit-learn computes in float64, the model in float32."""

NUDGE = 1e-6
"""Relative: some ten float32 steps, as many as a scaler before a tree may lose."""

NUDGES = 8

SHARE = 0.01
"""Of the rows may differ still: not every side of every split is found by nudging."""

LIMIT_ROWS = 1024


def write(definition: Definition, estimator: Any, target: Path, progress: Progress) -> Origin:
    """Write `target` and compare it with the estimator. Raises `StepError` where they differ."""
    with needs_extra("sklearn", "export scikit-learn models"):
        import sklearn  # noqa: F401
    method, score = _methods(definition, estimator)
    columns = _columns(definition, estimator)
    progress.stage("converting the model")
    model = conversion.convert(estimator, columns)
    progress.stage("comparing with the source")
    real = rows.together(
        itertools.chain([columns], rows.calibration(definition, tuple(columns))), LIMIT_ROWS
    )
    conversion.save(model, target, _names(method, score))
    try:
        compared = _compare(estimator, method, score, target, real)
    except StepError as error:
        if score != "decision_function":
            raise
        # Of two classes, some converters give one column, or the other class's sign.
        progress.say(f"only the label is kept, skl2onnx gives other scores: {error.message}")
        score = None
        conversion.save(model, target, ["label"])
        compared = _compare(estimator, method, score, target, real)
    labels = tuple(str(label) for label in getattr(estimator, "classes_", ()))
    return Origin(
        kind="scikit-learn",
        variant="fp32",
        parameters={
            "source": "scikit-learn",
            "opset": conversion.OPSET[""],
            "estimator": _title(estimator),
        },
        libraries=("scikit-learn", "skl2onnx", "onnx"),
        parity=compared,
        sample=columns,
        labels=labels if score else (),
        output=_answer(estimator, method, score),
    )


def _compare(
    estimator: Any, method: str, score: str | None, target: Path, real: Tensors
) -> parity.Parity:
    engine = engines.load("onnxruntime", target)
    try:
        names = [spec.name for spec in engine.outputs]
        compared = parity.compare(
            _source(estimator, method, score, engine.outputs),
            _Casting(engine),
            real,
            sizes=(*parity.SIZES, max(*parity.SIZES, tensors.rows(real))),
            tolerance=TOLERANCE,
            nudge=_nudged,
            decided_by=dict([names]) if score else None,
        )
    finally:
        engine.close()
    parity.check(compared, share=SHARE)
    return compared


class _Casting:
    """The engine, fed with what the estimator is fed: the cast is part of what is compared."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.inputs = engine.inputs
        self.outputs = engine.outputs

    def run(self, batch: Tensors) -> Tensors:
        """Cast to the signature's dtypes and run."""
        return self._engine.run(
            {spec.name: batch[spec.name].astype(spec.dtype) for spec in self.inputs}
        )

    def close(self) -> None:
        """Leave the engine to its owner."""


def _nudged(batch: Tensors) -> Iterator[Tensors]:
    """The batch moved by float32 noise, up, down and at random; text and whole numbers stay."""
    if all(array.dtype.kind != "f" for array in batch.values()):
        return
    generator = np.random.default_rng(0)
    for index in range(NUDGES):
        yield {
            name: array * (1 + NUDGE * (_SIDES[index] if index < 2 else _signs(generator, array)))
            if array.dtype.kind == "f"
            else array
            for name, array in batch.items()
        }


_SIDES = (-1.0, 1.0)


def _signs(generator: np.random.Generator, array: Array) -> Array:
    return generator.choice(_SIDES, array.shape)


def _title(estimator: Any) -> str:
    steps = getattr(estimator, "steps", None)
    if steps:
        return " → ".join(type(each).__name__ for _, each in steps)
    return type(estimator).__name__


def _methods(definition: Definition, estimator: Any) -> tuple[str, str | None]:
    """What answers, and what gives the scores of a classifier."""
    method = next(
        (name for name in ("predict", "transform") if callable(getattr(estimator, name, None))),
        None,
    )
    if method is None:
        raise DefinitionError(
            f"model() of '{definition.path}' returns a {type(estimator).__name__}, which has "
            "neither predict() nor transform()."
        )
    try:
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(estimator)
    except Exception as error:  # NotFittedError; a foreign estimator may raise its own
        raise DefinitionError(
            f"model() of '{definition.path}' returns a {type(estimator).__name__} that is not "
            "fitted.",
            hint="call fit() in model(), or load a fitted one there",
        ) from error
    if not hasattr(estimator, "classes_"):
        return method, None
    for score in ("predict_proba", "decision_function"):
        if callable(getattr(estimator, score, None)):
            return method, score
    return method, None


def _columns(definition: Definition, estimator: Any) -> Tensors:
    """The sample by input name, in the estimator's own precision."""
    value = definition.function("sample")()
    if isinstance(value, Mapping):
        columns = rows.by_name(value, tuple(str(name) for name in value), what="sample()")
        for name, array in columns.items():
            if array.ndim == 1:
                columns[name] = array.reshape(-1, 1)
            elif array.shape[1:] != (1,):
                raise DefinitionError(
                    f"sample() gives '{name}' the shape {array.shape}, and a column is (rows, 1)."
                )
        return columns
    declared = getattr(definition.processing.input, "tensor", None)
    array = rows.by_name(value, ("input",), what="sample()")["input"]
    return {declared or ("text" if array.dtype.kind == "O" else "input"): array}


def _names(method: str, score: str | None) -> tuple[str, ...]:
    if score is not None:
        return ("label", "probabilities" if score == "predict_proba" else "scores")
    return ("prediction",) if method == "predict" else ("features",)


def _answer(estimator: Any, method: str, score: str | None) -> ClassesOutput | ValuesOutput | None:
    if score == "predict_proba":
        return ClassesOutput(tensor="probabilities")
    if method == "predict" and not hasattr(estimator, "classes_"):
        return ValuesOutput(tensor="prediction")
    return None


def _source(
    estimator: Any, method: str, score: str | None, outputs: tuple[TensorSpec, ...]
) -> Callable[[Tensors], Tensors]:
    """The estimator as a model with the outputs of the exported one."""

    def run(batch: Tensors) -> Tensors:
        given = _given(estimator, batch)
        answers = [to_array(getattr(estimator, method)(given))]
        if score is not None:
            scores = to_array(getattr(estimator, score)(given))
            if scores.ndim == 1 and outputs[1].shape[-1] != 1:
                scores = np.stack([-scores, scores], axis=1)  # of two classes, the second's alone
            answers.append(scores)
        return {
            spec.name: answer.reshape(-1, 1) if answer.ndim < len(spec.shape) else answer
            for spec, answer in zip(outputs, answers, strict=True)
        }

    return run


def _given(estimator: Any, batch: Tensors) -> Any:
    """The batch as the estimator takes it: a matrix, texts, or a data frame with its columns."""
    if len(batch) == 1:
        (array,) = batch.values()
        return _text(array) if array.dtype.kind == "O" else array
    if hasattr(estimator, "feature_names_in_"):
        with needs_extra("sklearn", "give this estimator the data frame that it was fitted on"):
            import pandas as pd  # type: ignore[import-untyped]
        return pd.DataFrame({name: _text(array).ravel() for name, array in batch.items()})
    return np.concatenate([_text(array) for array in batch.values()], axis=1)


def _text(array: Array) -> Array:
    if array.dtype.kind != "O":
        return array
    flat = np.empty(array.size, dtype=np.object_)
    flat[:] = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
    return flat.reshape(array.shape)
