"""A fitted scikit-learn estimator or pipeline → ONNX, compared with its own predictions.

It may be one of scikit-learn, XGBoost, LightGBM or CatBoost, or a pipeline with those in it; what
its rows may be stands in `sample`. A classifier answers "label" and "probabilities" (or "scores",
where it has no predict_proba), a regressor "prediction", a transformer "features".
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import DefinitionError, StepError, needs_extra
from mlserve_cli.export import boosting, conversion, rows
from mlserve_cli.export import sample as samples
from mlserve_cli.export.origin import Origin
from mlserve_cli.export.sample import Sample
from mlserve_cli.graph import columns, edges, parity
from mlserve_cli.package.definition import Definition, to_array
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import engines, tensors
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.processing.declaration import ClassesOutput, ValuesOutput
from mlserve_cli.runtime.tensors import Array, Tensors, TensorSpec

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-3
"""scikit-learn computes in float64, the model in float32."""

NUDGE = 1e-6
"""Relative: some ten float32 steps, as many as a scaler before a tree may lose."""

NUDGES = 8

SHARE = 0.01
"""Of the rows may differ still: not every side of every split is found by nudging."""

LIMIT_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An estimator, and the real rows that came with it.

    where: how errors call it. sample, more: as the user gives them. tensor: the name that declared
    processing has for a matrix.
    """

    estimator: Any
    where: str
    sample: Callable[[], Any]
    more: Callable[[], Iterable[Any]]
    what: str = "sample()"
    tensor: str | None = None


def of_definition(definition: Definition, estimator: Any) -> Given:
    """What model(), sample() and calibration() of a definition give."""
    return Given(
        estimator=estimator,
        where=f"model() of '{definition.path}' returns",
        sample=definition.function("sample"),
        more=lambda: definition.batches("calibration") if definition.has("calibration") else (),
        tensor=getattr(definition.processing.input, "tensor", None),
    )


def write(given: Given, target: Path, progress: Progress) -> Origin:
    """Write `target` and compare it with the estimator. Raises `StepError` where they differ."""
    with needs_extra("sklearn", "export scikit-learn models"):
        import sklearn  # noqa: F401
    library = boosting.library(given.estimator)
    model = boosting.estimator(given.estimator)
    method, score = _methods(given.where, model)
    parts = conversion.parts(model)
    sample = samples.read(
        given.sample(),
        boosting.traits(model),
        tensor=given.tensor,
        by_column=any(hasattr(each, "transformers_") for each in parts),
        names=_names_in(model),
        what=given.what,
    )
    progress.stage("converting the model")
    written = _convert(model, sample)
    progress.stage("comparing with the source")
    more = (sample.read(batch, what="a batch of calibration()") for batch in given.more())
    real = rows.together(itertools.chain([sample.tensors], more), LIMIT_ROWS)
    source = _Source(model, sample, method, score)
    conversion.save(written, target, _names(method, score))
    whole = not sample.categories and not any(map(_encodes_numbers, parts))
    try:
        compared = _compare(source, target, real, whole=whole)
    except StepError as error:
        if score != "decision_function":
            raise
        # Of two classes, some converters give one column, or the other class's sign.
        progress.say(f"only the label is kept, skl2onnx gives other scores: {error.message}")
        source = _Source(model, sample, method, None)
        conversion.save(written, target, ["label"])
        compared = _compare(source, target, real, whole=whole)
    kind = library or "scikit-learn"
    return Origin(
        kind=boosting.NAMES.get(kind, kind),
        variant="fp32",
        parameters={
            "source": kind,
            "opset": conversion.OPSET[""],
            "estimator": _title(model),
        },
        libraries=_libraries(parts),
        parity=compared,
        sample=sample.tensors,
        labels=tuple(map(str, model.classes_)) if source.score else (),
        input=sample.table([real]),
        output=_answer(model, method, source.score),
    )


def _convert(model: Any, sample: Sample) -> onnx.ModelProto:
    """A boosted model takes one matrix, which is made of columns in the graph."""
    if sample.matrix is not None or not sample.names or boosting.library(model) is None:
        return conversion.convert(model, sample.tensors)
    matrix = np.zeros((1, len(sample.names)), np.float32)
    written = conversion.convert(model, {"matrix": matrix})
    columns.split(written, sample.columns())
    return written


def _libraries(parts: Sequence[Any]) -> tuple[str, ...]:
    found = {name for each in parts if (name := boosting.library(each))}
    named = {"xgboost": "xgboost-cpu"}
    return (
        "scikit-learn",
        *(named.get(name, name) for name in sorted(found)),
        *(("onnxmltools",) if found - {"catboost"} else ()),
        "skl2onnx",
        "onnx",
    )


def _compare(source: _Source, target: Path, real: Tensors, *, whole: bool) -> parity.Parity:
    """whole: whether whole numbers are amounts, which may be nudged like any other."""
    import onnx

    engine = engines.load("onnxruntime", target)
    try:
        source.outputs = engine.outputs
        names = [spec.name for spec in engine.outputs]
        compared = parity.compare(
            source.run,
            _Casting(engine),
            real,
            sizes=(*parity.SIZES, max(*parity.SIZES, tensors.rows(real))),
            tolerance=TOLERANCE,
            nudge=functools.partial(_nudged, whole=whole),
            decided_by=dict([names]) if source.score else None,
        )
        parity.check(compared, share=SHARE)
        found = edges.compare(
            source.run,
            _Casting(engine).run,
            onnx.load(target),
            real,
            error=min(4 * compared.relative_error, TOLERANCE),
            decided_by=names[1] if source.score else None,
        )
    finally:
        engine.close()
    edges.check(found)
    return dataclasses.replace(compared, edges=found)


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


def _nudged(batch: Tensors, *, whole: bool) -> Iterator[Tensors]:
    """The batch moved by float32 noise, up, down and at random; text stays.

    Whole numbers move if they are `whole` amounts: a scaler makes fractions of them, and a split
    halfway between 1 and 5 lies on every 3.
    """
    kinds = "fiu" if whole else "f"
    if all(array.dtype.kind not in kinds for array in batch.values()):
        return
    generator = np.random.default_rng(0)
    for index in range(NUDGES):
        yield {
            name: _moved(array, _SIDES[index] if index < 2 else _signs(generator, array))
            if array.dtype.kind in kinds
            else array
            for name, array in batch.items()
        }


def _moved(array: Array, sides: float | Array) -> Array:
    if array.dtype.kind == "f":
        return array * (1 + NUDGE * sides)
    moved: Array = array + NUDGE * sides * np.maximum(1, np.abs(array.astype(np.float64)))
    return moved


def _encodes_numbers(part: Any) -> bool:
    """Whether it takes numbers for categories, and so none that it was not fitted on."""
    return any(np.asarray(each).dtype.kind in "fiu" for each in getattr(part, "categories_", ()))


_SIDES = (-1.0, 1.0)


def _signs(generator: np.random.Generator, array: Array) -> Array:
    return generator.choice(_SIDES, array.shape)


def _title(estimator: Any) -> str:
    steps = getattr(estimator, "steps", None)
    if steps:
        return " → ".join(type(each).__name__ for _, each in steps)
    return type(estimator).__name__


def _methods(where: str, estimator: Any) -> tuple[str, str | None]:
    """What answers, and what gives the scores of a classifier."""
    name = type(estimator).__name__
    method = next(
        (each for each in ("predict", "transform") if callable(getattr(estimator, each, None))),
        None,
    )
    if method is None:
        raise DefinitionError(f"{where} a {name}, which has neither predict() nor transform().")
    if not _fitted(estimator):
        raise DefinitionError(
            f"{where} a {name} that is not fitted.",
            hint="call fit() in model(), or load a fitted one there",
        )
    if not len(getattr(estimator, "classes_", ())):  # CatBoost's regressors have none in a list
        return method, None
    for score in ("predict_proba", "decision_function"):
        if callable(getattr(estimator, score, None)):
            return method, score
    return method, None


def _fitted(estimator: Any) -> bool:
    """Whether it can predict: scikit-learn's own check, or what CatBoost and ours say."""
    if callable(getattr(estimator, "is_fitted", None)):
        return bool(estimator.is_fitted())
    if not hasattr(estimator, "fit"):
        return True
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except Exception:  # NotFittedError; a foreign estimator may raise its own
        return False
    return True


def _names_in(estimator: Any) -> tuple[str, ...]:
    try:
        return tuple(map(str, getattr(estimator, "feature_names_in_", ())))
    except Exception:  # a property that some estimators cannot answer for all of their inputs
        return ()


def _names(method: str, score: str | None) -> tuple[str, ...]:
    if score is not None:
        return ("label", "probabilities" if score == "predict_proba" else "scores")
    return ("prediction",) if method == "predict" else ("features",)


def _answer(estimator: Any, method: str, score: str | None) -> ClassesOutput | ValuesOutput | None:
    if score == "predict_proba":
        return ClassesOutput(tensor="probabilities")
    if method == "predict" and not len(getattr(estimator, "classes_", ())):
        return ValuesOutput(tensor="prediction")
    return None


class _Source:
    """The estimator as a model with the outputs of the exported one."""

    def __init__(self, estimator: Any, sample: Sample, method: str, score: str | None) -> None:
        self._estimator = estimator
        self._sample = sample
        self._method = method
        self.score = score
        self.outputs: tuple[TensorSpec, ...] = ()

    def run(self, batch: Tensors) -> Tensors:
        """The estimator's answers, in its own precision."""
        given = self._sample.given(batch)
        answers = [to_array(getattr(self._estimator, self._method)(given))]
        if self.score is not None:
            scores = to_array(getattr(self._estimator, self.score)(given))
            if scores.ndim == 1 and self.outputs[1].shape[-1] != 1:
                scores = np.stack([-scores, scores], axis=1)  # of two classes, the second's alone
            answers.append(scores)
        return {
            spec.name: _ranked(answer, len(spec.shape))
            for spec, answer in zip(self.outputs, answers, strict=True)
        }


def _ranked(answer: Array, rank: int) -> Array:
    if answer.ndim < rank:
        return answer.reshape(-1, 1)
    if answer.ndim == 2 > rank and answer.shape[1] == 1:  # CatBoost's labels
        return answer.ravel()
    return answer
