import numpy as np
import pytest

from mlserve_cli.runtime.ensemble.operations import OPERATIONS, build
from mlserve_cli.runtime.errors import PackageError

SCORES = np.array([[1, 2, 3], [-1000, 0, 1000], [5, 5, 5]], dtype=np.float32)


def test_softmax_gives_shares_also_of_very_large_scores(does):
    found = build(does("softmax", ["a"], "b"))([SCORES])

    assert found.dtype == np.float32
    assert found.sum(axis=1) == pytest.approx(1)
    assert found[1].tolist() == [0, 0, 1]
    assert found[0] == pytest.approx(np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum())


def test_nan_and_infinity_stay_in_their_row_and_warn_nobody(does):
    array = np.array([[np.nan, 1], [np.inf, 1], [1, 1]], dtype=np.float32)
    found = build(does("softmax", ["a"], "b"))([array])

    assert np.isnan(found[:2]).any(axis=1).all()
    assert found[2].tolist() == [0.5, 0.5]
    assert build(does("cast", ["a"], "b", datatype="INT64"))([array])[2].tolist() == [1, 1]


def test_argmax_is_int64_without_its_axis(does):
    found = build(does("argmax", ["a"], "b"))([SCORES])

    assert found.dtype == np.int64
    assert found.tolist() == [2, 2, 0]


def test_the_mean_weighs_its_inputs_and_keeps_their_datatype(does):
    one, three = np.ones((2, 2), np.float16), np.full((2, 2), 3, np.float16)

    plain = build(does("mean", ["a", "b"], "c"))([one, three])
    weighed = build(does("mean", ["a", "b"], "c", weights=(3.0, 1.0)))([one, three])

    assert plain.dtype == weighed.dtype == np.float16
    assert plain.tolist() == [[2, 2], [2, 2]]
    assert weighed.tolist() == [[1.5, 1.5], [1.5, 1.5]]
    assert one.tolist() == [[1, 1], [1, 1]], "its inputs are left alone"


def test_a_mean_of_different_shapes_is_refused_rather_than_stretched(does):
    with pytest.raises(TypeError, match="different shapes"):
        build(does("mean", ["a", "b"], "c"))([np.ones((2, 1)), np.ones((2, 3))])


def test_concat_puts_columns_side_by_side(does):
    found = build(does("concat", ["a", "b"], "c"))([SCORES, SCORES[:, :1]])

    assert found.shape == (3, 4)


def test_cast_and_reshape_work_row_by_row(does):
    assert build(does("cast", ["a"], "b", datatype="INT64"))([SCORES]).dtype == np.int64
    pairs = np.arange(12).reshape(2, 6)
    reshape = build(does("reshape", ["a"], "b", shape=(3, -1)))
    assert reshape([pairs]).shape == (2, 3, 2)
    assert reshape([pairs[:0]]).shape[0] == 0


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (("median", ["a"], "b", {}), "'median', which does not exist"),
        (("softmax", ["a", "b"], "c", {}), "takes one input, and has 2"),
        (("mean", [], "c", {}), "has no inputs"),
        (("softmax", ["a"], "c", {"axis": 0}), "axis 0, which are the rows"),
        (("mean", ["a", "b"], "c", {"weights": (1.0,)}), "1 weights for 2 inputs"),
        (("mean", ["a", "b"], "c", {"weights": (0.0, 0.0)}), "must not be negative"),
        (("mean", ["a", "b"], "c", {"weights": (-1.0, 2.0)}), "must not be negative"),
        (("mean", ["a", "b"], "c", {"weights": (float("nan"), 2.0)}), "must not be negative"),
        (("cast", ["a"], "c", {}), "datatype 'None'"),
        (("cast", ["a"], "c", {"datatype": "BYTES"}), "datatype 'BYTES'"),
        (("reshape", ["a"], "c", {}), "reshapes to nothing"),
        (("reshape", ["a"], "c", {"shape": (-1, -1)}), "reshapes to"),
        (("reshape", ["a"], "c", {"shape": (0,)}), "reshapes to"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(does, step, said):
    operation, takes, makes, parameters = step
    with pytest.raises(PackageError, match=said):
        build(does(operation, takes, makes, **parameters))


def test_every_operation_is_tried_here():
    assert set(OPERATIONS) == {"mean", "softmax", "argmax", "concat", "cast", "reshape"}
