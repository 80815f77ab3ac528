"""The splits of the tree ensembles in an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    import onnx

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
"""In the order of the numbers that TreeEnsemble (ai.onnx.ml 5) writes for them, from 0."""

_KINDS = ("TreeEnsembleRegressor", "TreeEnsembleClassifier", "TreeEnsemble")


@dataclass(frozen=True, slots=True)
class Splits:
    """Where one tree ensemble splits what flows into it: each feature and threshold once.

    value: the name of what flows in. features: (n,) int64. thresholds: (n,) float32.
    """

    value: str
    features: Array
    thresholds: Array


def splits(model: onnx.ModelProto) -> list[Splits]:
    """The splits of each ensemble by a threshold; those on equality, of categories, are left out.

    Reads TreeEnsembleRegressor and TreeEnsembleClassifier (ai.onnx.ml 1 to 4), and TreeEnsemble
    (ai.onnx.ml 5, with tensors for thresholds and numbers for modes).
    """
    import onnx

    found = []
    for node in model.graph.node:
        if node.op_type not in _KINDS or node.domain != "ai.onnx.ml":
            continue
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        features = np.asarray(attributes["nodes_featureids"], np.int64)
        thresholds, ordered = _ordered(attributes)
        pairs = {
            (int(feature), float(threshold))
            for feature, threshold in zip(features[ordered], thresholds[ordered], strict=True)
            if np.isfinite(threshold)
        }
        listed = sorted(pairs)
        found.append(
            Splits(
                node.input[0],
                np.array([each[0] for each in listed], np.int64),
                np.array([each[1] for each in listed], np.float32),
            )
        )
    return found


def _ordered(attributes: dict[str, Any]) -> tuple[Array, Array]:
    """Thresholds of all nodes, float32, and which of them compare by order."""
    from onnx import numpy_helper

    if "nodes_splits" in attributes:  # TreeEnsemble, which has no nodes for leaves
        thresholds = numpy_helper.to_array(attributes["nodes_splits"])
        numbers = numpy_helper.to_array(attributes["nodes_modes"])
        modes = [_MODES[number] if number < len(_MODES) else "" for number in numbers]
    else:
        given = attributes.get("nodes_values")
        if given is None:
            given = numpy_helper.to_array(attributes["nodes_values_as_tensor"])
        thresholds = np.asarray(given)
        modes = [mode.decode() for mode in attributes["nodes_modes"]]
    ordered = np.array([mode in _MODES[:4] for mode in modes], bool)
    return thresholds.astype(np.float32), ordered
