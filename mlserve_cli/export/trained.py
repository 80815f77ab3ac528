"""A trained model that stands alone: a file that its library saved, or `module:object`.

.json .ubj     XGBoost      .txt   LightGBM      .cbm   CatBoost      trees, and no code
.skops         scikit-learn, with its types listed; only known ones are made without --trust
.joblib .pkl .pickle        pickles: loading runs whatever their author wrote, so only with --trust
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.data import untyped
from mlserve_cli.errors import (
    DefinitionError,
    MlserveError,
    StepError,
    first_line,
    needs_extra,
)
from mlserve_cli.export import boosting, conversion
from mlserve_cli.export.estimator import LIMIT_ROWS, Given
from mlserve_cli.package.progress import Progress

PICKLES = (".joblib", ".pkl", ".pickle")

SUFFIXES = (*boosting.SUFFIXES, ".skops", *PICKLES)


def is_file(path: Path) -> bool:
    """Whether it is a file that this module reads; of all texts only those LightGBM saved are."""
    if path.suffix == ".txt":
        with path.open("rb") as file:
            return file.read(4) == b"tree"
    return path.suffix in SUFFIXES


def is_object(source: str) -> bool:
    """Whether it is written as `module:object`, and no file."""
    module, separator, name = source.partition(":")
    words = [*module.split("."), *name.split(".")]
    return (
        bool(separator)
        and all(word.isidentifier() for word in words)
        and not (Path(source).exists())
    )


def check_trust(path: Path, *, trust: bool) -> None:
    """Refuse a pickle that nobody vouched for, before anything is read."""
    if path.suffix in PICKLES and not trust:
        raise StepError(
            f"'{path}' is a pickle, and loading one runs whatever its author wrote.",
            hint="--trust, if it is your own; safer: save it with skops.io.dump(model, "
            f"'{path.stem}.skops'), or return it from model() of a definition",
        )


def given(
    source: str,
    *,
    value: Any = None,
    calibration: str | None,
    trust: bool,
    progress: Progress,
) -> Given:
    """The estimator that `source` names, with the rows of --calibration.

    `value` is what `load_object` made of it, where it is no file.
    Raises `DefinitionError` or `StepError` where there is none, it is of no kind that can be
    exported, or no rows were named.
    """
    if is_object(source):
        where = f"'{source}' is"
    else:
        path = Path(source)
        check_trust(path, trust=trust)
        value, where = _file(path, trust, progress), f"'{source}' holds"
    if not conversion.is_estimator(value):
        raise StepError(
            f"{where} {_article(type(value).__name__)}, and no estimator of scikit-learn, XGBoost, "
            "LightGBM or CatBoost.",
            hint="return it from model() of a definition; a PyTorch module, for one",
        )
    if calibration is None:
        raise DefinitionError(
            f"'{source}' comes without rows, and the export is compared on real ones.",
            hint=f"--calibration FILE, which is {untyped.WHAT}",
        )
    return Given(
        estimator=value,
        where=where,
        sample=lambda: _fitting(untyped.read(calibration, LIMIT_ROWS), value),
        more=tuple,
        what=f"'{calibration}'",
    )


def _file(path: Path, trust: bool, progress: Progress) -> Any:
    if path.suffix in boosting.SUFFIXES:
        return boosting.load(str(path), path.suffix)
    with needs_extra("sklearn", "load scikit-learn models"):
        import sklearn  # noqa: F401
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = _skops(path, trust) if path.suffix == ".skops" else _pickle(path)
    for each in told:  # of another version of scikit-learn, for one
        progress.say(first_line(each.message) if isinstance(each.message, Warning) else "")
        break
    return model


def _skops(path: Path, trust: bool) -> Any:
    with needs_extra("sklearn", "load .skops files"):
        from skops import io
    try:
        unknown = io.get_untrusted_types(file=path)
    except Exception as error:  # zip, JSON and skops' own errors share no class
        raise StepError(f"'{path}' is no skops file: {first_line(error)}.") from error
    if unknown and not trust:
        raise StepError(
            f"'{path}' makes objects of types that skops does not know to be harmless: "
            f"{', '.join(unknown[:8])}{' …' if len(unknown) > 8 else ''}.",
            hint="--trust, if you know where they come from",
        )
    try:
        return io.load(path, trusted=unknown)
    except Exception as error:
        raise StepError(f"'{path}' cannot be loaded: {first_line(error)}.") from error


def _pickle(path: Path) -> Any:
    import joblib

    try:
        return joblib.load(path)
    except Exception as error:  # unpickling raises whatever the classes in it raise
        raise StepError(
            f"'{path}' cannot be loaded: {type(error).__name__}: {first_line(error)}.",
            hint="with the libraries, in the versions, that it was saved with",
        ) from error


def load_object(source: str) -> Any:
    """Import the module, from the current folder too, and take the object, or what it returns."""
    module, _, name = source.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
        # An instance of a network can be called, too: with tensors.
        made = hasattr(value, "predict") or hasattr(value, "forward")
        if callable(value) and (isinstance(value, type) or not made):
            value = value()
    except (MlserveError, KeyboardInterrupt, MemoryError):
        raise
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise DefinitionError(
                f"there is no module '{error.name}' to import '{source}' from.",
                hint=f"start where it can be imported, or set PYTHONPATH; this is '{os.curdir}'",
            ) from error
        raise DefinitionError(f"'{source}' cannot be imported: {error}.") from error
    except AttributeError as error:
        raise DefinitionError(f"'{source}' cannot be found: {error}.") from error
    except BaseException as error:  # the user's module runs, and may raise or exit as it likes
        raise DefinitionError(
            f"'{source}' raised {type(error).__name__}: {first_line(error)}.",
            hint="--debug shows the whole traceback",
        ) from error
    return value


def _fitting(value: Any, model: Any) -> Any:
    """Columns of nothing but numbers become a matrix in the model's order, where it takes one."""
    if not isinstance(value, dict):
        return value
    model = boosting.estimator(model)
    traits = boosting.traits(model)
    names = traits.names or tuple(map(str, getattr(model, "feature_names_in_", ())))
    chosen = {name: value[name] for name in names if name in value} or value
    if names and set(names) - set(chosen):
        return chosen  # the sample's own check names the column that is missing
    chooses = any(hasattr(each, "transformers_") for each in conversion.parts(model))
    if chooses or traits.categories or any(each.dtype.kind not in "fi" for each in chosen.values()):
        return {
            name: _categories(column, traits.categories.get(name, ()))
            for name, column in chosen.items()
        }
    return np.stack([column.astype(np.float64) for column in chosen.values()], axis=1)


def _categories(column: Any, known: Any) -> Any:
    """Categories of text that read as numbers ("1", "2") are text still."""
    if len(known) and isinstance(known[0], str) and column.dtype.kind != "O":
        text = np.empty(len(column), np.object_)
        text[:] = [str(each) for each in column.tolist()]
        return text
    return column


def _article(name: str) -> str:
    return f"an {name}" if name[:1] in "AEIOUaeiou" else f"a {name}"
