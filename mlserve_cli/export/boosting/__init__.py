"""XGBoost, LightGBM and CatBoost: each library's models as estimators that skl2onnx can convert."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError, needs_extra
from mlserve_cli.export.boosting.traits import Traits

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Traits", "estimator", "library", "load", "register", "traits"]

_KINDS = {
    "xgboost": ("XGBModel", "Booster"),
    "lightgbm": ("LGBMModel", "Booster"),
    "catboost": ("CatBoost",),
}
"""Library → its base classes. A module of the library's name beside this one carries it out."""

NAMES = {"xgboost": "XGBoost", "lightgbm": "LightGBM", "catboost": "CatBoost"}

SUFFIXES = {".json": "xgboost", ".ubj": "xgboost", ".txt": "lightgbm", ".cbm": "catboost"}
"""The libraries' own file formats, which hold trees and no code."""


def library(value: Any) -> str | None:
    """Which library `value` is a model of, told from its class without importing any."""
    for each in type(value).__mro__:
        root = each.__module__.partition(".")[0]
        if each.__name__ in _KINDS.get(root, ()):
            return root
    own = getattr(type(value), "library", None)  # a stand-in of ours for a native booster
    return own if own in _KINDS else None


def estimator(value: Any) -> Any:
    """A native booster as an estimator with predict(), and predict_proba() for classes.

    Any other value is returned as it is. Raises `StepError` for what cannot be converted.
    """
    name = library(value)
    return value if name is None else _module(name).estimator(value)


def traits(value: Any) -> Traits:
    """What a model of one of the libraries says of its columns."""
    name = library(value)
    if name is None:
        return Traits()
    found: Traits = _module(name).traits(value)
    return found


def load(path: str, suffix: str) -> Any:
    """The model in a file of a library's own format, as an estimator.

    Raises `StepError` when the file is not one, `MissingExtra` without the library.
    """
    name = SUFFIXES[suffix]
    with _needed(name):
        importlib.import_module(name)
    try:
        return _module(name).load(path)
    except StepError:
        raise
    except Exception as error:  # each library raises its own kind
        text = " ".join(str(error).split("Stack trace")[0].split())
        raise StepError(
            f"'{path}' is no model of {NAMES[name]}: {text[:160]}",
            hint=f"a {suffix} file is what {NAMES[name]} itself saves",
        ) from error


def register(parts: Iterable[Any]) -> None:
    """Tell skl2onnx how to convert the libraries' models among `parts`."""
    for name in sorted({found for each in parts if (found := library(each))}):
        with _needed(name):
            import onnxmltools  # noqa: F401
        _module(name).register()


@contextmanager
def _needed(name: str) -> Iterator[None]:
    with needs_extra("boosting", f"export models of {NAMES[name]}"):
        yield


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
