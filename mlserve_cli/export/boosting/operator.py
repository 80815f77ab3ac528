"""What the three converters share: how skl2onnx parses, shapes and feeds a boosted model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Convert = Callable[[Any, Any, Any], None]
"""(scope, operator, container): adds the operator's nodes to the container."""


def register(kind: type, convert: Convert) -> None:
    """Register `convert` for estimators of the class `kind`, alone and inside of pipelines."""
    import skl2onnx

    alias = f"Mlserve{kind.__module__.partition('.')[0].title()}{kind.__name__}"

    def parse(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
        from skl2onnx.common.data_types import FloatTensorType

        operator = scope.declare_local_operator(alias, model)
        operator.inputs = inputs
        if is_classifier(model):
            label = scope.declare_local_variable("label", _label_type(model)())
            operator.outputs.append(label)
            name = "probabilities"
        else:
            name = "variable"
        operator.outputs.append(scope.declare_local_variable(name, FloatTensorType()))
        return operator.outputs

    skl2onnx.update_registered_converter(
        kind, alias, _shape, convert, parser=parse, options={"zipmap": [True, False]}
    )


def is_classifier(model: Any) -> bool:
    """Whether it has classes; CatBoost's regressors have an empty list of them."""
    return len(getattr(model, "classes_", ())) > 0


def trees(container: Any, since: int) -> Any:
    """The tree ensemble among the nodes that were added to the container since it had `since`."""
    return next(node for node in container.nodes[since:] if node.op_type.startswith("TreeEnsemble"))


def replace(node: Any, **attributes: Any) -> None:
    """Give the node these attributes in place of those of the same names."""
    import onnx

    kept = [each for each in node.attribute if each.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(
        onnx.helper.make_attribute(name, value) for name, value in attributes.items()
    )


def hide(scope: Any, container: Any, node: Any, value: float, columns: Sequence[bool]) -> None:
    """Turn what stands for a missing value in these columns into NaN before the trees see it.

    value 0 hides what LightGBM takes for zero, |x| ≤ 1e-35; any other hides its equals.
    """
    import onnx

    def constant(name: str, kind: int, shape: list[int], values: list[Any]) -> str:
        unique: str = scope.get_unique_variable_name(name)
        container.add_initializer(unique, kind, shape, values)
        return unique

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        output: str = scope.get_unique_variable_name(kind.lower())
        container.add_node(
            kind, list(inputs), [output], name=scope.get_unique_operator_name(kind), **attributes
        )
        return output

    given = node.input[0]
    float32 = onnx.TensorProto.FLOAT
    nan = constant("nan", float32, [1], [math.nan])
    if value == 0:
        limit = constant("limit", float32, [1], [float(np.float32(1e-35))])
        missing = add("Not", add("Greater", add("Abs", given), limit))
    else:
        missing = add("Equal", given, constant("missing", float32, [1], [value]))
    if not all(columns):
        shape = [1, len(columns)]
        missing = add(
            "And", missing, constant("columns", onnx.TensorProto.BOOL, shape, list(columns))
        )
    node.input[0] = add("Where", missing, nan, given)


def logit(share: float) -> float:
    """The score whose logistic function is `share`."""
    return math.log(share / (1 - share))


def _label_type(model: Any) -> Any:
    from skl2onnx.common import data_types

    text = isinstance(model.classes_[0], str)
    return data_types.StringTensorType if text else data_types.Int64TensorType


def _shape(operator: Any) -> None:
    from skl2onnx.common.data_types import FloatTensorType

    rows = operator.inputs[0].get_first_dimension()
    model = operator.raw_operator
    if is_classifier(model):
        operator.outputs[0].type = _label_type(model)([rows])
        operator.outputs[1].type = FloatTensorType([rows, len(model.classes_)])
    else:
        operator.outputs[0].type = FloatTensorType([rows, 1])
