"""Rows next to the splits of trees: read out of both kinds of ensemble, placed, compared."""

import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.graph import edges, ensemble

onnx = pytest.importorskip("onnx")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT


def regressor(thresholds, mode="BRANCH_LEQ", source="x"):
    """One stump a feature: 1 below its threshold, else 0; the answers are summed."""
    count = len(thresholds)
    tree = [index for index in range(count) for _ in range(3)]
    return helper.make_node(
        "TreeEnsembleRegressor",
        [source],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=tree,
        nodes_nodeids=[0, 1, 2] * count,
        nodes_featureids=[each for index in range(count) for each in (index, 0, 0)],
        nodes_modes=[mode, "LEAF", "LEAF"] * count,
        nodes_values=[each for value in thresholds for each in (value, 0.0, 0.0)],
        nodes_truenodeids=[1, 0, 0] * count,
        nodes_falsenodeids=[2, 0, 0] * count,
        target_treeids=[index for index in range(count) for _ in range(2)],
        target_nodeids=[1, 2] * count,
        target_ids=[0, 0] * count,
        target_weights=[1.0, 0.0] * count,
    )


def young(thresholds):
    """The same as one TreeEnsemble of ai.onnx.ml 5."""
    count = len(thresholds)
    return helper.make_node(
        "TreeEnsemble",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function=1,
        post_transform=0,
        tree_roots=list(range(count)),
        nodes_featureids=list(range(count)),
        nodes_modes=numpy_helper.from_array(np.zeros(count, np.uint8)),
        nodes_splits=numpy_helper.from_array(np.array(thresholds, np.float32)),
        nodes_trueleafs=[1] * count,
        nodes_truenodeids=[2 * index for index in range(count)],
        nodes_falseleafs=[1] * count,
        nodes_falsenodeids=[2 * index + 1 for index in range(count)],
        leaf_targetids=[0] * (2 * count),
        leaf_weights=numpy_helper.from_array(np.array([1.0, 0.0] * count, np.float32)),
    )


def model(*nodes, width, version=3):
    graph = helper.make_graph(
        list(nodes),
        "trees",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", FLOAT, ["batch", 1])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def runner(made):
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString())
    return lambda batch: {"y": session.run(None, {"x": batch["x"].astype(np.float32)})[0]}


def counted(thresholds, below=np.less_equal, scale=1.0):
    """What a library answers: how many features are below their threshold."""

    def run(batch):
        return {"y": below(batch["x"] * scale, thresholds).sum(axis=1, keepdims=True) * 1.0}

    return run


REAL = {"x": np.random.default_rng(0).normal(size=(32, 3))}
THRESHOLDS = [0.25, -0.5, 1.0]


@pytest.mark.parametrize(
    "made",
    [model(regressor(THRESHOLDS), width=3), model(young(THRESHOLDS), width=3, version=5)],
    ids=["TreeEnsembleRegressor", "TreeEnsemble"],
)
def test_the_splits_of_both_kinds_of_ensemble_are_read_and_reached(made):
    onnx.checker.check_model(made)
    (found,) = ensemble.splits(made)
    compared = edges.compare(counted(THRESHOLDS), runner(made), made, REAL, error=0.0)

    assert found.features.tolist() == [0, 1, 2]
    assert found.thresholds.tolist() == THRESHOLDS
    assert compared == edges.Edges(rows=9, splits=3, exact=True, changed=0.0, deviating=0.0)


def test_smaller_where_smaller_or_equal_was_meant_differs_at_every_threshold():
    made = model(regressor(THRESHOLDS, "BRANCH_LT"), width=3)
    compared = edges.compare(counted(THRESHOLDS), runner(made), made, REAL, error=0.0)

    assert compared.deviating == pytest.approx(1 / 3)  # of below, at and above
    with pytest.raises(StepError, match=r"33\.3% of 9 rows, where 1% is allowed"):
        edges.check(compared)


def test_a_threshold_that_rounding_moved_up_is_found_by_the_row_at_it():
    exact = [float(np.float32(each)) - 1e-9 for each in THRESHOLDS]
    made = model(regressor(exact), width=3)
    compared = edges.compare(counted(exact), runner(made), made, REAL, error=0.0)

    assert compared.deviating > 0.3


def test_before_a_scaler_rows_are_placed_where_the_scaled_value_crosses_the_threshold():
    scale = helper.make_node("Mul", ["x", "three"], ["scaled"])
    made = model(scale, regressor(THRESHOLDS, source="scaled"), width=3)
    made.graph.initializer.append(numpy_helper.from_array(np.float32(3.3), "three"))
    right = edges.compare(counted(THRESHOLDS, scale=3.3), runner(made), made, REAL, error=0.0)
    wrong = edges.compare(counted([0.25, -0.5, 1.01], scale=3.3), runner(made), made, REAL, error=0)

    assert (right.rows, right.splits, right.exact) == (6, 3, False)
    assert right.deviating == 0.0
    assert wrong.deviating == pytest.approx(1 / 6)


def test_a_model_without_trees_has_no_edges():
    made = model(helper.make_node("Identity", ["x"], ["y"]), width=1)

    assert edges.compare(runner(made), runner(made), made, REAL, error=0.0) is None
    edges.check(None)
