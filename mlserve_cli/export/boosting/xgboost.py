"""XGBoost → ONNX: onnxmltools' converter, given a booster in which what it gets wrong is put right.

Mended: early stopping, DART's weights, parallel trees of several classes, columns with names and
types, a `missing` that is not NaN, the base score of logistic objectives, rankers.
"""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from mlserve_cli.errors import StepError
from mlserve_cli.export.boosting import operator as operators
from mlserve_cli.export.boosting.traits import Traits

_LOGISTIC = ("reg:logistic", "binary:logistic")


def estimator(value: Any) -> Any:
    """A `Booster` as the estimator of its objective; the library's estimators as they are.

    Like `Booster.predict`, it uses all of the trees, also where training stopped early.
    """
    if hasattr(value, "get_booster"):
        return value
    booster = value.copy()
    booster.set_attr(best_iteration=None, best_score=None)
    return _wrapped(booster)


def load(path: str) -> Any:
    """The model of a .json or .ubj file; where training stopped early, up to its best iteration."""
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(path)
    return _wrapped(booster)


def _wrapped(booster: Any) -> Any:
    import xgboost

    objective = _configuration(booster)["objective"]["name"]
    if objective.startswith(("binary:", "multi:")):
        kind = xgboost.XGBClassifier
    elif objective.startswith("rank:"):
        kind = xgboost.XGBRanker
    else:
        kind = xgboost.XGBRegressor
    if objective == "multi:softmax":  # the same trees, answering shares rather than the label
        booster.set_param({"objective": "multi:softprob"})
    model = kind()
    model.load_model(booster.save_raw("ubj"))
    return model


def traits(value: Any) -> Traits:
    """The names of the columns, and the categories of those that were categorical."""
    booster = value.get_booster()
    names = tuple(booster.feature_names or ())
    kinds = booster.feature_types or ()
    encodings = _encodings(booster, len(names))
    return Traits(
        names,
        {
            name: encoded
            for name, kind, encoded in zip(names, kinds, encodings, strict=False)
            if kind == "c" and encoded
        },
    )


def _encodings(booster: Any, count: int) -> list[list[Any]]:
    """The categories of each column, kept in the model since XGBoost 3.1; else none."""
    model = _saved(booster)
    kept = model.get("cats", {}).get("enc", [])
    return [_categories(each) for each in kept] or [[]] * count


def _categories(encoded: dict[str, Any]) -> list[Any]:
    """Whole numbers as they are; texts as the bytes of all of them and where each begins."""
    values = encoded["values"]
    if "offsets" not in encoded:
        return list(values)
    text = bytes(each % 256 for each in values)
    ends = encoded["offsets"]
    return [text[start:end].decode() for start, end in itertools.pairwise(ends)]


def register() -> None:
    """Register with skl2onnx."""
    import xgboost

    for kind in (
        xgboost.XGBClassifier,
        xgboost.XGBRFClassifier,
        xgboost.XGBRegressor,
        xgboost.XGBRFRegressor,
        xgboost.XGBRanker,
    ):
        operators.register(kind, _convert)


class _Booster:
    """What the converter reads: the trees, in the order that it expects, and the configuration."""

    def __init__(self, trees: list[str], learner: dict[str, Any]) -> None:
        self._trees = trees
        self._learner = learner

    def get_dump(self, **_: Any) -> list[str]:
        return self._trees

    def save_config(self) -> str:
        return json.dumps({"learner": self._learner})


class _Model:
    kwargs = None  # the converter takes a model without it for one of XGBoost 0.6
    missing = math.nan

    def __init__(
        self, booster: _Booster, operator_name: str, parameters: dict[str, Any], classes: Any
    ) -> None:
        self._booster = booster
        self._parameters = parameters
        self.operator_name = operator_name
        self.n_estimators = parameters["n_estimators"]
        self.classes_ = classes

    def get_booster(self) -> _Booster:
        return self._booster

    def get_xgb_params(self) -> dict[str, Any]:
        return self._parameters


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

    model = operator.raw_operator
    booster = model.get_booster()
    best = booster.attr("best_iteration")
    if best is not None:
        booster = booster[: int(best) + 1]
    learner = _configuration(booster)
    objective = learner["objective"]["name"]
    classes = max(1, int(learner["learner_model_param"]["num_class"]))
    if int(learner["learner_model_param"].get("num_target", 1)) > 1:
        raise StepError(
            "this XGBoost model answers several targets at once, and only one can be exported.",
            hint="train a model for each target",
        )
    trees = _trees(booster, learner["gradient_booster"]["name"], classes)
    learner["gradient_booster"] = {"gbtree_model_param": {"num_trees": str(len(trees))}}
    known = {"objective": objective, "n_estimators": len(trees) // classes}
    classifying = operators.is_classifier(model)
    outputs = list(operator.output_full_names)
    logistic = objective in _LOGISTIC and not classifying
    if logistic:  # as LOGISTIC of a regressor's post_transform, ONNX Runtime answers otherwise
        outputs = [scope.get_unique_variable_name("margin")]
    stand_in = SimpleNamespace(
        raw_operator=_Model(
            _Booster([json.dumps(tree) for tree in trees], learner),
            "XGBClassifier" if classifying else "XGBRegressor",
            known,
            model.classes_ if classifying else (),
        ),
        inputs=operator.inputs,
        input_full_names=operator.input_full_names,
        output_full_names=outputs,
    )
    since = len(container.nodes)
    convert_xgboost(scope, stand_in, container)
    node = operators.trees(container, since)
    if logistic:
        name = scope.get_unique_operator_name("Sigmoid")
        container.add_node("Sigmoid", outputs, operator.output_full_names, name=name)
    if objective in _LOGISTIC:
        base = json.loads(learner["learner_model_param"]["base_score"])
        share = base[0] if isinstance(base, list) else base
        operators.replace(node, base_values=[operators.logit(share)])
    missing = getattr(model, "missing", math.nan)
    if missing is not None and not math.isnan(missing):
        width = int(learner["learner_model_param"]["num_feature"])
        operators.hide(scope, container, node, _same(missing), [True] * width)


def _same(missing: float) -> float:
    if missing == 0:
        raise StepError(
            "this XGBoost model takes 0 for missing, and that cannot be exported.",
            hint="replace the zeros by NaN in the data, and train with missing=nan",
        )
    return float(np.float32(missing))


def _trees(booster: Any, kind: str, classes: int) -> list[dict[str, Any]]:
    """The trees as JSON, one of each class in turn, DART's weights multiplied in."""
    if kind not in ("gbtree", "dart"):
        raise StepError(
            f"this XGBoost model is a '{kind}', and only trees can be exported.",
            hint="train with booster='gbtree', or a linear model of scikit-learn",
        )
    plain = booster.copy()
    types = booster.feature_types or ["float"] * booster.num_features()
    plain.feature_names = None
    plain.feature_types = ["c" if each == "c" else "float" for each in types]
    dump = plain.get_dump(with_stats=True, dump_format="json")
    trees = [json.loads(tree) for tree in dump]
    saved = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    if kind == "dart":
        for tree, weight in zip(trees, saved["weight_drop"], strict=True):
            _weigh(tree, weight)
    model = saved["gbtree"]["model"] if kind == "dart" else saved["model"]
    groups: list[list[dict[str, Any]]] = [[] for _ in range(classes)]
    for tree, group in zip(trees, model["tree_info"], strict=True):
        groups[group].append(tree)
    return [tree for each in zip(*groups, strict=True) for tree in each]


def _weigh(tree: dict[str, Any], weight: float) -> None:
    stack = [tree]
    while stack:
        node = stack.pop()
        if "leaf" in node:
            node["leaf"] *= weight
        stack += node.get("children", ())


def _saved(booster: Any) -> dict[str, Any]:
    saved = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    found: dict[str, Any] = saved.get("gbtree", saved).get("model", {})
    return found


def _configuration(booster: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(booster.save_config())["learner"]
    return found
