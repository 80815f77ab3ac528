from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.processing.cells import to_array

MANY = 1000


def error(data: Any, datatype: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        to_array(data, datatype, where="x")
    return caught.value.message


@pytest.mark.parametrize("count", [3, MANY])
@pytest.mark.parametrize(
    ("odd", "part"),
    [
        (True, "must be numbers"),
        (None, "must be numbers"),
        ("1", "must be numbers"),
        ([1.0], "ragged"),
        ({}, "must be numbers"),
        (10**400, "do not fit"),
        (1e39, "do not fit"),
    ],
)
def test_one_wrong_value_among_few_or_many_is_found(count: int, odd: Any, part: str) -> None:
    for filler in (0.5, 1.0):
        data: list[Any] = [filler] * count
        data[count // 2] = odd
        assert part in error(data, "FP32")


@pytest.mark.parametrize("count", [3, MANY])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_few_and_many_numbers_are_rounded_alike(count: int, datatype: str) -> None:
    values = np.random.default_rng(1).normal(size=count).tolist()
    values[0], values[1], values[2] = 0.0, 1, float("nan")
    found = to_array(values, datatype, where="x")
    np.testing.assert_array_equal(found, np.array(values).astype(found.dtype))


def test_the_shape_is_the_lists_own() -> None:
    assert to_array(5, "INT8", where="x").shape == ()
    assert to_array([], "INT8", where="x").shape == (0,)
    assert to_array([[], []], "FP32", where="x").shape == (2, 0)
    assert to_array([[["a"], ["b"]]], "BYTES", where="x").shape == (1, 2, 1)


@pytest.mark.parametrize(
    ("data", "datatype"),
    [([1.0], "INT64"), ([2**63], "INT64"), ([-1], "UINT8"), ([256], "UINT8"), ([1], "BOOL")],
)
def test_integers_are_neither_cut_nor_wrapped(data: Any, datatype: str) -> None:
    assert datatype in error(data, datatype)


@pytest.mark.parametrize("data", [[[1], [1, 2]], [[1], 1], [1, [1]], [[], [1]]])
def test_ragged_lists_are_refused(data: Any) -> None:
    assert "ragged" in error(data, "FP32")


def test_one_long_string_does_not_make_the_others_as_wide() -> None:
    found = to_array(["x" * 10_000_000] + ["y"] * 10_000, "BYTES", where="x")
    assert found.nbytes < 1_000_000
