"""LightGBM → ONNX: onnxmltools' converter, given a dump in which what it gets wrong is put right.

Mended: float64 thresholds that the nearest float32 would move up; NaN where a column had none (it
is taken for 0); zero_as_missing; random forests of other than 100 trees.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlserve_cli.errors import StepError
from mlserve_cli.export.boosting import operator as operators
from mlserve_cli.export.boosting.traits import Traits
from mlserve_cli.runtime.tensors import Array


class LightGbmBooster:
    """A native booster of values, as an estimator."""

    library = "lightgbm"

    def __init__(self, booster: Any) -> None:
        self.booster_ = booster
        self.n_features_in_ = booster.num_feature()

    def predict(self, rows: Any) -> Array:
        """What the booster answers, (rows,) float64."""
        found: Array = self.booster_.predict(rows)
        return found


class LightGbmClassifierBooster(LightGbmBooster):
    """A native booster of classes 0, 1, …"""

    def __init__(self, booster: Any, classes: int) -> None:
        super().__init__(booster)
        self.classes_ = np.arange(classes)

    def predict(self, rows: Any) -> Array:
        """The class with the largest share, (rows,)."""
        found: Array = self.classes_[self.predict_proba(rows).argmax(axis=1)]
        return found

    def predict_proba(self, rows: Any) -> Array:
        """Shares of the classes, (rows, classes) float64."""
        found: Array = self.booster_.predict(rows)
        return np.stack([1 - found, found], axis=1) if found.ndim == 1 else found


def estimator(value: Any) -> Any:
    """A `Booster` as an estimator; the library's own estimators as they are."""
    if isinstance(value, LightGbmBooster) or not hasattr(value, "dump_model"):
        return value
    dump = value.dump_model(num_iteration=1)
    objective = str(dump.get("objective", ""))
    if not objective:
        raise StepError(
            "this LightGBM booster does not say what it was trained for (a custom objective).",
            hint="train with one of LightGBM's own objectives",
        )
    if objective.startswith(("binary", "multiclass")):
        return LightGbmClassifierBooster(value, max(2, dump["num_class"]))
    return LightGbmBooster(value)


def load(path: str) -> Any:
    """The model of a text file that LightGBM saved."""
    import lightgbm

    return estimator(lightgbm.Booster(model_file=path))


def traits(value: Any) -> Traits:
    """The names of the columns, and the categories of those that were categorical."""
    booster = value.booster_
    names = tuple(booster.feature_name())
    categories = booster.pandas_categorical or []
    if names == tuple(f"Column_{index}" for index in range(len(names))):
        return Traits()
    if not categories:
        return Traits(names)
    categorical = [
        name
        for name in names
        if _is_categorical(booster.dump_model(num_iteration=1)["feature_infos"].get(name))
    ]
    if len(categorical) != len(categories):
        # LightGBM keeps no names of them, and columns that it never split on have no information.
        return Traits(names)
    return Traits(names, dict(zip(categorical, categories, strict=True)))


def _is_categorical(information: Any) -> bool:
    return bool(information) and bool(information.get("values"))


def register() -> None:
    """Register with skl2onnx."""
    import lightgbm

    for kind in (
        lightgbm.LGBMClassifier,
        lightgbm.LGBMRegressor,
        lightgbm.LGBMRanker,
        LightGbmBooster,
        LightGbmClassifierBooster,
    ):
        operators.register(kind, _convert)


class _Booster:
    """What the converter reads: the mended dump."""

    is_mock = True

    def __init__(self, dump: dict[str, Any]) -> None:
        self._dump = dump

    def dump_model(self) -> dict[str, Any]:
        return self._dump


class _Model:
    boosting_type = "gbdt"  # a forest's leaves are divided below, by their true number

    def __init__(self, dump: dict[str, Any], classes: Any) -> None:
        self.booster_ = _Booster(dump)
        self.classes_ = classes


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

    model = operator.raw_operator
    dump = model.booster_.dump_model()
    zero = _mend(dump)
    stand_in = copy.copy(operator)
    stand_in.raw_operator = _Model(dump, getattr(model, "classes_", ()))
    since = len(container.nodes)
    convert_lightgbm(scope, stand_in, container)
    if any(zero):
        operators.hide(scope, container, operators.trees(container, since), 0, zero)


def _mend(dump: dict[str, Any]) -> list[bool]:
    """Put the dump right, in place; return for each column whether its zeros are missing."""
    parts = 1
    if dump.get("average_output"):
        parts = len(dump["tree_info"]) // max(1, dump["num_tree_per_iteration"])
    hidden: dict[int, set[bool]] = {}
    for tree in dump["tree_info"]:
        for node in _nodes(tree["tree_structure"]):
            if "leaf_coeff" in node:
                raise StepError(
                    "this LightGBM model has linear functions in its leaves, and ONNX has no such "
                    "trees.",
                    hint="train it with linear_tree=False",
                )
            if "leaf_value" in node:
                node["leaf_value"] /= parts
                continue
            if node["decision_type"] == "==":
                continue
            threshold = float(node["threshold"])
            node["threshold"] = floor(threshold)
            if node["missing_type"] == "None":
                node["default_left"] = threshold >= 0
            hidden.setdefault(node["split_feature"], set()).add(node["missing_type"] == "Zero")
            node["missing_type"] = "NaN"
    if any(len(kinds) > 1 for kinds in hidden.values()):
        raise StepError(
            "this LightGBM model takes zeros of one column for missing in some trees and not in "
            "others.",
            hint="go on training with the same zero_as_missing",
        )
    return [hidden.get(index) == {True} for index in range(dump["max_feature_idx"] + 1)]


def _nodes(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All nodes of a tree. A split on a set of categories becomes a chain of splits on one each."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        if "split_feature" not in node:
            continue
        stack += [node["left_child"], node["right_child"]]
        if node["decision_type"] != "==":
            continue
        values = [float(each) for each in str(node["threshold"]).split("||")]
        last, otherwise = node, node["right_child"]
        for value in values[:-1]:
            last["threshold"] = value
            last["right_child"] = last = dict(last)
        last["threshold"], last["right_child"] = values[-1], otherwise


def floor(value: float) -> float:
    """The largest float32 that is no larger: x ≤ value holds for the same float32 x."""
    with np.errstate(over="ignore"):
        nearest = np.float32(value)
        if float(nearest) > value:
            nearest = np.nextafter(nearest, np.float32(-np.inf))
    return float(nearest)
