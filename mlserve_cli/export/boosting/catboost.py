"""CatBoost → ONNX: the library's own writer, its tree ensemble taken into skl2onnx's graph.

Left out is its ZipMap, which makes a list of dictionaries of a matrix. Put right are the answers
of objectives with a logarithmic link, and of one class against all others.
"""

from __future__ import annotations

from typing import Any

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.export.boosting import operator as operators
from mlserve_cli.export.boosting.traits import Traits

_EXPONENTIAL = ("Poisson", "Tweedie")


def estimator(value: Any) -> Any:
    """A bare `CatBoost` as a classifier or a regressor; those as they are."""
    import catboost

    if isinstance(value, (catboost.CatBoostClassifier, catboost.CatBoostRegressor)):
        return value
    if isinstance(value, catboost.CatBoostRanker) or not value.is_fitted():
        return value
    kind = catboost.CatBoostClassifier if len(value.classes_) else catboost.CatBoostRegressor
    model = kind()
    model.load_model(blob=value._serialize_model())
    return model


def load(path: str) -> Any:
    """The model of a .cbm file."""
    import catboost

    bare = catboost.CatBoost()
    bare.load_model(path)
    kind = catboost.CatBoostClassifier if len(bare.classes_) else catboost.CatBoostRegressor
    model = kind()
    model.load_model(path)
    return model


def traits(value: Any) -> Traits:
    """The names of the columns. Raises `StepError` for columns of categories or text."""
    names = [str(name) for name in value.feature_names_ or ()]
    for kind, indices in (
        ("categories", value.get_cat_feature_indices()),
        ("text", value.get_text_feature_indices()),
    ):
        if indices:
            columns = ", ".join(f"'{names[index]}'" for index in indices)
            raise StepError(
                f"CatBoost cannot write models with columns of {kind} as ONNX: {columns}.",
                hint="encode them before it in a pipeline, with OrdinalEncoder or OneHotEncoder",
            )
    if names == [str(index) for index in range(len(names))]:
        return Traits()
    return Traits(tuple(names))


def register() -> None:
    """Register with skl2onnx."""
    import catboost

    for kind in (
        catboost.CatBoostClassifier,
        catboost.CatBoostRegressor,
        catboost.CatBoostRanker,
    ):
        operators.register(kind, _convert)


def _convert(scope: Any, operator: Any, container: Any) -> None:
    import onnx
    from catboost.utils import convert_to_onnx_object

    model = operator.raw_operator
    traits(model)
    try:
        written = convert_to_onnx_object(model)
    except Exception as error:  # CatBoostError, for trees that are not symmetric
        raise StepError(
            f"CatBoost cannot write this model as ONNX: {first_line(error)}.",
            hint="train with grow_policy='SymmetricTree', the default",
        ) from error
    node = next(each for each in written.graph.node if each.op_type.startswith("TreeEnsemble"))
    loss = str(model.get_all_params().get("loss_function", "")).partition(":")[0]
    if loss == "MultiClassOneVsAll":
        operators.replace(node, post_transform="LOGISTIC")
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    outputs = list(operator.output_full_names)
    if loss in _EXPONENTIAL and not operators.is_classifier(model):
        outputs = [scope.get_unique_variable_name("logarithm")]
        container.add_node(
            "Exp", outputs, operator.output_full_names, name=scope.get_unique_operator_name("Exp")
        )
    container.add_node(
        node.op_type,
        operator.input_full_names,
        outputs,
        op_domain="ai.onnx.ml",
        name=scope.get_unique_operator_name(node.op_type),
        **attributes,
    )
