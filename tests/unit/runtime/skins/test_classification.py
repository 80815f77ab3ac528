from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.protocols.classification import classify


def texts(array: Any) -> list[list[str]]:
    return [[item.decode() for item in row] for row in array.tolist()]


def test_the_best_classes_of_each_row_come_first() -> None:
    scores = np.array([[0.25, 0.5, 0.125], [3, 1, 2]], dtype=np.float32)
    assert texts(classify(scores, 2)) == [["0.5:1", "0.25:0"], ["3.0:0", "2.0:2"]]


def test_labels_are_added_where_there_is_one_for_each_class() -> None:
    scores = np.array([[1.0, 2.0]])
    assert texts(classify(scores, 2, ("cat", "dog"))) == [["2.0:1:dog", "1.0:0:cat"]]
    assert texts(classify(scores, 2, ("cat", "dog", "owl"))) == [["2.0:1", "1.0:0"]]


def test_more_classes_than_there_are_means_all() -> None:
    assert classify(np.zeros((2, 3)), 9).shape == (2, 3)


def test_equal_scores_keep_their_order_and_nan_comes_last() -> None:
    assert texts(classify(np.array([[1.0, np.nan, 1.0, 2.0]]), 4)) == [
        ["2.0:3", "1.0:0", "1.0:2", "nan:1"]
    ]
    assert texts(classify(np.array([[5, 7, 5, 7]], np.uint8), 4)) == [["7:1", "7:3", "5:0", "5:2"]]


def test_the_ends_of_a_range_are_ordered_too() -> None:
    ends = np.array([[-(2**63), 2**63 - 1, 0]], dtype=np.int64)
    assert texts(classify(ends, 3)) == [[f"{2**63 - 1}:1", "0:2", f"{-(2**63)}:0"]]
    wide = np.array([[2**64 - 1, 2**64 - 2]], dtype=np.uint64)
    assert texts(classify(wide, 1)) == [[f"{2**64 - 1}:0"]]


def test_a_score_reads_back_as_the_same_number() -> None:
    scores = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32) * 1e-20
    for row, found in zip(scores, texts(classify(scores, 8)), strict=True):
        for item in found:
            score, index = item.split(":")
            assert np.float32(score) == row[int(index)]


def test_truths_are_numbers_and_rows_may_have_any_shape() -> None:
    assert texts(classify(np.array([[False, True]]), 1)) == [["1:1"]]
    assert texts(classify(np.array([3.5, 4.5]), 2)) == [["3.5:0"], ["4.5:0"]]
    assert texts(classify(np.arange(4.0).reshape(1, 2, 2), 1)) == [["3.0:3"]]
    assert classify(np.zeros((0, 3)), 2).shape == (0, 2)


@pytest.mark.parametrize("k", [0, -1])
def test_a_number_of_classes_is_above_zero(k: int) -> None:
    with pytest.raises(InvalidRequest, match="above 0"):
        classify(np.zeros((1, 3)), k)


def test_text_has_no_classes() -> None:
    with pytest.raises(InvalidRequest, match="numbers only"):
        classify(np.array([[b"a"]], dtype=object), 1)
