"""A large forest, or any estimator, into a smaller one that learns from its probabilities.

Every row is fitted once a class, weighted with what the teacher holds for likely: for trees, and
whatever minimizes a sum over rows, that is cross-entropy with soft targets. Rows without targets
are enough, and more can be made up: near real ones, mixed with their neighbours (Bucilă, Caruana
and Niculescu-Mizil, "Model compression", 2006: MUNGE), answered by the teacher like any other.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.distill import rows as data
from mlserve_cli.distill import teacher as teachers
from mlserve_cli.distill.made_up import with_made_up
from mlserve_cli.distill.teacher import PackageTeacher
from mlserve_cli.errors import DefinitionError, StepError, first_line, needs_extra
from mlserve_cli.package import contents
from mlserve_cli.package.definition import Definition, named, to_array
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.frame import is_frame
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.rows import cast
from mlserve_cli.package.step import Change
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import ClassesOutput
from mlserve_cli.runtime.tensors import Array, Tensors, rows
from mlserve_cli.training import source
from mlserve_cli.training.variant import prefixed

Save = Callable[[Definition, Any, Path, Progress], Any]
"""Writes a fitted estimator of a definition as ONNX and compares the two, or raises StepError."""

LIMIT_ROWS = 200_000
"""Rows to learn from, made-up ones among them: they are held in memory, once a likely class."""

LIKELY = 1e-3
"""Classes that the teacher holds for less likely are left out: they would be most of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What an estimator is fitted with.

    alpha: the teacher's share; None takes 0.9, and 1 where rows come without targets.
    augment: rows that are made up for each real one; they have no targets but the teacher's.
    """

    alpha: float | None = None
    train_data: str | None = None
    target: str | None = None
    augment: int = 0
    seed: int = 0


def distill_estimator(
    parent: Package,
    draft: Draft,
    progress: Progress,
    *,
    teacher: Package,
    lesson: Lesson,
    save: Save,
) -> Change:
    """Fit student() of the parent's definition on the teacher's answers, and write it.

    Raises `DefinitionError` where student() is no unfitted estimator, `StepError` where the rows
    or the teacher's answers do not fit it.
    """
    with needs_extra("sklearn", "distill into an estimator"):
        from sklearn.base import clone
    progress.stage("asking the teacher")
    definition = Definition.load(parent.source / source.DEFINITION)
    student = definition.function("student")()
    if not callable(getattr(student, "fit", None)):
        raise DefinitionError(
            f"student() of '{definition.path}' returns {type(student).__name__}; of a model that "
            "is an estimator it returns a smaller one, not fitted yet.",
            hint="for example: return RandomForestClassifier(n_estimators=20, max_depth=8)",
        )
    student = _seeded(clone(student), lesson.seed)
    names = tuple(spec.name for spec in parent.manifest.inputs)
    given, targets = _rows(parent, definition, names, lesson)
    count = rows(given.tensors)
    alpha = _alpha(lesson.alpha, targets)
    if lesson.augment:
        times = max(0, min(lesson.augment, LIMIT_ROWS // count - 1))
        given = with_made_up(given, times, seed=lesson.seed)
    found = _answers(teacher, given.tensors, names, progress)
    if _decides(parent.manifest, student):
        shares = _shares(found, teacher.manifest)
        classes = _classes(teacher, given.tensors, shares)
        if targets is not None and alpha < 1:
            shares[:count] = alpha * shares[:count] + (1 - alpha) * _hot(targets, classes)
        progress.stage(f"fitting the student to {len(shares):,} rows")
        how = _fit_classes(student, given.value, shares, classes)
    else:
        wanted = found.reshape(len(found), -1)
        if targets is not None and alpha < 1:
            theirs = np.asarray(targets, np.float64).reshape(count, -1)
            if theirs.shape != wanted[:count].shape:
                raise StepError(
                    f"the teacher answers {found.shape} and the targets are "
                    f"{np.shape(targets)}, so they cannot be mixed.",
                    hint="--alpha 1 learns from the teacher alone",
                )
            wanted[:count] = alpha * wanted[:count] + (1 - alpha) * theirs
        progress.stage(f"fitting the student to {len(wanted):,} rows")
        _fit(student, given.value, wanted.ravel() if wanted.shape[1] == 1 else wanted, {})
        how = "values"
    progress.stage("writing the student")
    written = save(definition, student, draft.serve / parent.manifest.model, progress)
    shutil.copytree(parent.source, draft.source, dirs_exist_ok=True)
    parameters: dict[str, Any] = {
        "alpha": alpha,
        "rows": count,
        "made_up_rows": rows(given.tensors) - count,
        "fitted_to": how,
        "estimator": _title(student),
        "bytes_before": parent.manifest.weight_bytes,
    }
    if teacher is not parent:
        parameters["teacher"] = teacher.manifest.digest
    if lesson.train_data is not None:
        parameters |= contents.facts("train_data", lesson.train_data)
    return Change(
        variant=prefixed("distilled", parent.manifest.variant),
        parameters=parameters,
        seed=lesson.seed,
        libraries=tuple(getattr(written, "libraries", ("scikit-learn", "skl2onnx", "onnx"))),
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """The same rows twice: as the estimator takes them, and by the names of the inputs."""

    value: Any
    tensors: Tensors


def _rows(
    parent: Package, definition: Definition, names: tuple[str, ...], lesson: Lesson
) -> tuple[Rows, Any]:
    """All rows to learn from, and their targets or None."""
    if lesson.train_data is not None:
        parts = (
            (part.inputs, part.targets)
            for part in data.read(parent, lesson.train_data, target=lesson.target)
        )
        tensors, targets = data.together(parts, LIMIT_ROWS)
        return Rows(_as_estimators_take(tensors, definition), tensors), targets
    function = "training" if definition.has("training") else "calibration"
    if not definition.has(function):
        raise StepError(
            f"the definition of '{parent.path}' has no training() and no calibration(), so there "
            "are no rows to learn from.",
            hint="training() may yield inputs alone; or pass --train-data FILE",
        )
    values: list[Any] = []
    specs = parent.manifest.inputs

    def parts_of() -> Iterator[tuple[Tensors, Any]]:
        for item in definition.batches(function):
            inputs, wanted = (
                data.split(item, len(names)) if function == "training" else (item, None)
            )
            values.append(inputs)
            yield (
                cast(named(inputs, names, what=f"{function}()"), specs),
                None if wanted is None else to_array(wanted),
            )

    tensors, targets = data.together(parts_of(), LIMIT_ROWS)
    return Rows(_joined(values), tensors), targets


def _as_estimators_take(tensors: Tensors, definition: Definition) -> Any:
    """A matrix as it is; columns as a data frame, in the order of the model's inputs."""
    if len(tensors) == 1:
        (array,) = tensors.values()
        return _text(array)
    with needs_extra("boosting", "make a data frame of the rows"):
        import pandas as pd

    return pd.DataFrame({name: _text(array).ravel() for name, array in tensors.items()})


def _text(array: Array) -> Array:
    if array.dtype.kind != "O":
        return array
    return np.array([each.decode() for each in array.flat], dtype=object).reshape(array.shape)


def _joined(values: list[Any]) -> Any:
    first = values[0]
    if len(values) == 1:
        return first
    if is_frame(first):
        import pandas as pd

        return pd.concat(values, ignore_index=True)
    if isinstance(first, dict):
        return {name: np.concatenate([each[name] for each in values]) for name in first}
    return np.concatenate([np.asarray(each) for each in values])


def _alpha(given: float | None, targets: Any) -> float:
    if given is None:
        return 1.0 if targets is None else data.ALPHA
    if targets is None and given < 1:
        raise StepError(
            f"rows come without targets, and alpha is {given:g}: {1 - given:g} of what is learned "
            "would be the targets'.",
            hint="--alpha 1 learns from the teacher alone; or let training() yield "
            "(inputs, targets)",
        )
    return given


def _answers(
    teacher: Package, tensors: Tensors, names: tuple[str, ...], progress: Progress
) -> Array:
    theirs = {spec.name for spec in teacher.manifest.inputs}
    if theirs != set(names):
        raise StepError(
            f"the teacher '{teacher.path}' takes {', '.join(sorted(theirs))}, and the student "
            f"{', '.join(names)}.",
            hint="both must take inputs of the same names",
        )
    asked = PackageTeacher(teacher, progress, probabilities=True)
    try:
        return asked.answer(tensors).astype(np.float64)
    finally:
        asked.close()


def _decides(manifest: Manifest, student: Any) -> bool:
    """Whether the model decides between classes. Raises `DefinitionError` where only one does."""
    from sklearn.base import is_classifier

    model = isinstance(manifest.processing.output, ClassesOutput) or any(
        spec.name == "label" for spec in manifest.outputs
    )
    theirs = bool(is_classifier(student)) or hasattr(student, "predict_proba")
    if model != theirs:
        words = ("a classifier", "no classifier")
        raise DefinitionError(
            f"student() returns {_title(student)}, which is {words[not theirs]}, and the model is "
            f"{words[not model]}.",
            hint="the student must answer what the model answers",
        )
    return model


def _shares(found: Array, manifest: Manifest) -> Array:
    """(rows, classes) that add up to 1, of probabilities, logits, or the sign of one score."""
    if found.ndim == 1 or found.shape[1] == 1:
        column = found.reshape(-1)
        inside = bool(((column >= 0) & (column <= 1)).all())
        likely = column if inside else (column > 0).astype(np.float64)
        return np.stack([1 - likely, likely], axis=1)
    declared = manifest.processing.output
    if teachers.are_probabilities(found):
        weights = found
    elif isinstance(declared, ClassesOutput) and declared.softmax:
        weights = np.exp(found - found.max(axis=1, keepdims=True))
    else:
        weights = np.eye(found.shape[1])[found.argmax(axis=1)]
    total: Array = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / total)


def _classes(teacher: Package, tensors: Tensors, shares: Array) -> list[Any]:
    """The value of each class: what the teacher calls it where it decides for it."""
    count = shares.shape[1]
    label = next((spec for spec in teacher.manifest.outputs if spec.name == "label"), None)
    if label is None:
        return list(range(count))
    best = shares.argmax(axis=1)
    examples = {int(each): int(np.argmax(best == each)) for each in np.unique(best)}
    engine = teacher.engine()
    values: dict[int, Any] = {}
    try:
        for each, row in examples.items():
            part = {name: array[row : row + 1] for name, array in tensors.items()}
            value = np.asarray(engine.run(part)["label"]).reshape(-1)[0]
            values[each] = value.decode() if isinstance(value, bytes) else value
    finally:
        engine.close()
    for each in range(count):
        if each not in values:
            labels = teacher.manifest.labels
            named_so = labels[each] if each < len(labels) else str(each)
            values[each] = named_so if label.datatype == "BYTES" else each
    return [values[each] for each in range(count)]


def _hot(targets: Any, classes: list[Any]) -> Array:
    """One at the class that is right. Raises `StepError` for a target that is no class."""
    places = {str(value): place for place, value in enumerate(classes)}
    hot = np.zeros((len(targets), len(classes)))
    for row, value in enumerate(np.asarray(targets).reshape(-1).tolist()):
        text = value.decode() if isinstance(value, bytes) else str(value)
        if text not in places:
            raise StepError(
                f"the target '{text}' is no class that the teacher knows.",
                hint=f"it knows {', '.join(list(places)[:20])}",
            )
        hot[row, places[text]] = 1
    return hot


def _fit_classes(student: Any, value: Any, shares: Array, classes: list[Any]) -> str:
    """Fit to shares by weights, or to the best class where the estimator takes no weights."""
    from sklearn.utils.validation import has_fit_parameter

    steps = getattr(student, "steps", None)
    last, prefix = (steps[-1][1], f"{steps[-1][0]}__") if steps else (student, "")
    values = np.array(classes)
    if not has_fit_parameter(last, "sample_weight"):
        best = shares.argmax(axis=1)
        _check_all_there(np.bincount(best, minlength=len(classes)), classes)
        _fit(student, value, values[best], {})
        return "classes"
    row, column = np.nonzero(shares >= LIKELY)
    _check_all_there(np.bincount(column, minlength=len(classes)), classes)
    weights = {f"{prefix}sample_weight": shares[row, column]}
    _fit(student, _taken(value, row), values[column], weights)
    return "shares"


def _check_all_there(found: Array, classes: list[Any]) -> None:
    if not found.all():
        missing = classes[int(np.argmin(found))]
        raise StepError(
            f"the teacher holds the class '{missing}' likely in no row, so the student would not "
            "know it.",
            hint="training() must yield rows of every class",
        )


def _fit(student: Any, value: Any, wanted: Any, more: dict[str, Any]) -> None:
    try:
        student.fit(value, wanted, **more)
    except (ValueError, TypeError, RuntimeError) as error:
        raise StepError(
            f"{_title(student)} cannot be fitted to the teacher's answers: {first_line(error)}.",
            hint="student() takes the rows as training() yields them",
        ) from error


def _taken(value: Any, chosen: Array) -> Any:
    if is_frame(value):
        return value.iloc[chosen]
    if isinstance(value, dict):
        return {name: np.asarray(array)[chosen] for name, array in value.items()}
    return np.asarray(value)[chosen]


def _seeded(student: Any, seed: int) -> Any:
    """With the seed wherever it leaves its random state open."""
    open_ones = {
        name: seed
        for name, value in student.get_params().items()
        if value is None and name.rpartition("__")[2] == "random_state"
    }
    return student.set_params(**open_ones) if open_ones else student


def _title(estimator: Any) -> str:
    steps = getattr(estimator, "steps", None)
    if steps:
        return " → ".join(type(each).__name__ for _, each in steps)
    return type(estimator).__name__
