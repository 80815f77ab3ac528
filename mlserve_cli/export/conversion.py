"""What skl2onnx is asked, and what is mended around it: plain outputs with names."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError, needs_extra
from mlserve_cli.export import boosting
from mlserve_cli.graph import clean
from mlserve_cli.graph.names import rename_outputs
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    import onnx

OPSET = {"": 20, "ai.onnx.ml": 3}
"""ONNX Runtime runs both; trees above ai.onnx.ml 3 take another, younger kernel."""

_TYPES = {
    "O": "StringTensorType",
    "i": "Int64TensorType",
    "u": "Int64TensorType",
    "b": "BooleanTensorType",
    "f": "FloatTensorType",
}


def is_estimator(value: Any) -> bool:
    """Whether it is an estimator of scikit-learn or of a boosting library, importing neither."""
    if boosting.library(value) is not None:
        return True
    names = {f"{each.__module__.partition('.')[0]}.{each.__name__}" for each in type(value).__mro__}
    return "sklearn.BaseEstimator" in names


def convert(estimator: Any, columns: Tensors) -> onnx.ModelProto:
    """The estimator as ONNX, with an input for each of `columns`.

    Raises `StepError` when skl2onnx has no converter for a part of it, or fails.
    """
    with needs_extra("sklearn", "export scikit-learn models"):
        import skl2onnx
        from skl2onnx.common import data_types
    _check_protobuf()
    found = parts(estimator)
    boosting.register(found)
    inputs = []
    for name, array in columns.items():
        # A matrix is float32 whatever the sample's dtype; a column of whole numbers keeps its kind.
        kind = "f" if len(columns) == 1 and array.dtype.kind != "O" else array.dtype.kind
        inputs.append((name, getattr(data_types, _TYPES[kind])([None, *array.shape[1:]])))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy's and scikit-learn's next versions
            model: onnx.ModelProto = skl2onnx.convert_sklearn(
                estimator,
                name=type(estimator).__name__,
                initial_types=inputs,
                target_opset=OPSET,
                options=_options(estimator, found),
            )
    except StepError:
        raise
    except Exception as error:  # skl2onnx raises dozens of kinds, RuntimeError and NameError too
        text = " ".join(str(error).split())
        name = type(estimator).__name__
        own = boosting.library(estimator)
        if own is not None:
            raise StepError(
                f"this {name} of {boosting.NAMES[own]} cannot be converted: {text[:200]}",
                hint="trees with the library's own objectives for values, two or more classes and "
                "ranking can",
            ) from error
        raise StepError(
            f"skl2onnx cannot convert this {name}: {text[:200]}",
            hint="https://onnx.ai/sklearn-onnx/supported.html lists what it converts",
        ) from error
    versions = {each.domain: each.version for each in model.opset_import}
    del model.opset_import[:]  # some converters name a domain twice
    for domain, version in sorted(versions.items()):
        model.opset_import.add(domain=domain, version=version)
    clean.strip(model)
    return model


def save(model: onnx.ModelProto, target: Path, outputs: Sequence[str]) -> None:
    """Write the model with its first outputs alone, under these names."""
    import onnx

    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    del kept.graph.output[len(outputs) :]  # the distances to a cluster, the scores of an outlier
    rename_outputs(kept, outputs)
    clean.save(kept, target)


def _check_protobuf() -> None:
    version = importlib.metadata.version("protobuf")
    if int(version.partition(".")[0]) >= 7:
        raise StepError(
            f"protobuf {version} is installed, and skl2onnx fails with it.",
            hint="pip install 'protobuf<7'",
        )


def _options(estimator: Any, found: Sequence[Any]) -> dict[int, dict[str, Any]]:
    options: dict[int, dict[str, Any]] = {}
    for each in found:
        if type(each).__name__ in ("TfidfVectorizer", "CountVectorizer"):
            # Otherwise ONNX Runtime asks for en_US.UTF-8, which slim containers do not have.
            options[id(each)] = {"locale": "C"}
    last = estimator
    while getattr(last, "steps", None):
        last = last.steps[-1][1]
    if type(last).__name__ == "LinearSVC":
        options[id(last)] = {"nocl": False}  # any option: else it gets a ZipMap that it refuses
    elif len(getattr(estimator, "classes_", ())) and boosting.library(last) is None:
        options[id(last)] = {"zipmap": False}  # a plain matrix, not a list of dicts
    return options


def parts(estimator: Any) -> list[Any]:
    """The estimator and all that it is made of."""
    found = [estimator]
    if hasattr(estimator, "get_params"):
        found += filter(is_estimator, estimator.get_params(deep=True).values())
    for _, step in getattr(estimator, "steps", ()):
        if getattr(step, "steps", None) or hasattr(step, "transformers_"):
            found += parts(step)
    for each in list(found):  # a ColumnTransformer fits copies of what it was given
        for _, fitted, *_ in getattr(each, "transformers_", ()):
            if is_estimator(fitted):
                found += parts(fitted)
    return found
