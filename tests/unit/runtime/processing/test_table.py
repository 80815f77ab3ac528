from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import InvalidRequest, PackageError, UnsupportedMedia
from mlserve_cli.runtime.processing.declaration import Column, TableInput

MATRIX = TableInput(
    tensor="x",
    columns=(Column("age"), Column("rooms", "integer"), Column("sold", "boolean", default=False)),
)
MIXED = TableInput(
    columns=(
        Column("age", tensor="age"),
        Column("rooms", "integer", tensor="rooms"),
        Column("city", "string", default="Bern", tensor="city"),
    )
)
MIXED_INPUTS = (
    ("age", "FP32", ("batch", 1)),
    ("rooms", "INT64", ("batch", 1)),
    ("city", "BYTES", ("batch", 1)),
)


def error(found: Any, *rows: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        found.tensors(list(rows))
    return caught.value


def test_columns_go_in_their_order_into_the_matrix(make: Any) -> None:
    found = make(input=MATRIX)
    batch = found.tensors([{"sold": True, "rooms": 2, "age": 1.5}, {"age": 3, "rooms": 4}])["x"]
    assert batch.dtype == np.float32
    assert batch.tolist() == [[1.5, 2.0, 1.0], [3.0, 4.0, 0.0]]


def test_columns_may_have_a_tensor_each(make: Any) -> None:
    found = make(MIXED_INPUTS, input=MIXED)
    tensors = found.tensors([{"age": 1.5, "rooms": 2**53 + 1}, {"age": 0, "rooms": 1, "city": "Z"}])
    assert tensors["age"].tolist() == [[1.5], [0.0]]
    assert tensors["rooms"].tolist() == [[2**53 + 1], [1]]
    assert tensors["city"].tolist() == [[b"Bern"], [b"Z"]]


def test_rows_may_be_lists_in_the_columns_order(make: Any) -> None:
    found = make(input=MATRIX)
    assert found.tensors(found.rows(b"[1, 2, true]", ""))["x"].tolist() == [[1.0, 2.0, 1.0]]
    assert len(found.rows(b"[[1, 2, true], [3, 4, false]]", "")) == 2
    assert "3 columns" in error(found, [1, 2]).message


def test_csv_is_read_by_its_header(make: Any) -> None:
    found = make(MIXED_INPUTS, input=MIXED)
    text = '\ufeffcity,age,rooms\r\n"a, b",1e3, 2\r\n,-1,3.0\r\n'.encode()
    tensors = found.tensors(found.rows(text, "text/csv"))
    assert tensors["age"].tolist() == [[1000.0], [-1.0]]
    assert tensors["rooms"].tolist() == [[2], [3]]
    assert tensors["city"].tolist() == [[b"a, b"], [b""]]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"", "no rows"),
        (b"age,rooms\n", "no rows"),
        (b"age,rooms\nx,1\n", "row 0: column 'age' is 'x', and it must be a number"),
        (b"age,rooms\n1,1\n1,1.5\n", "row 1: column 'rooms' is '1.5'"),
        (b"age,rooms\n1,2,3\n", "more values than the header"),
        (b"age,rooms\n\xff,1\n", "not UTF-8"),
        (b'age,rooms\n"1,2\n', "CSV cannot be read"),
        (b"age,rooms,sold\n1,1,perhaps\n", "must be true or false"),
    ],
)
def test_broken_csv_names_the_place(make: Any, text: bytes, part: str) -> None:
    found = make(input=MATRIX)
    with pytest.raises(InvalidRequest) as caught:
        found.tensors(found.rows(text, "text/csv"))
    assert part in caught.value.message


GOOD = {"age": 1, "rooms": 2}


def test_a_column_under_another_name_is_found(make: Any) -> None:
    hint = error(make(input=MATRIX), {"age": 1, "Rooms": 2}).hint
    assert hint is not None
    assert "is it called 'Rooms' there?" in hint


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"age": 1}, "row 1 has no column 'rooms'"),
        (GOOD | {"age": None}, "row 1 has no value for column 'age'"),
        (GOOD | {"age": "1"}, "row 1: column 'age' is '1', and it must be a number"),
        (GOOD | {"age": True}, "column 'age' is True, and it must be a number"),
        (GOOD | {"rooms": 1.5}, "column 'rooms' is 1.5, and it must be a whole number"),
        (GOOD | {"sold": 1}, "column 'sold' is 1, and it must be true or false"),
        (GOOD | {"age": [1]}, "column 'age' is [1]"),
        (GOOD | {"agge": 1}, "row 1 has an unknown column 'agge'"),
        (5, "row 1 is 5, and it must be an object"),
        (None, "row 1 is None"),
        (GOOD | {"age": 1e39}, "do not fit FP32"),
        (GOOD | {"age": 10**400}, "do not fit FP32"),
    ],
)
def test_a_wrong_cell_names_its_row_column_and_value(make: Any, row: Any, part: str) -> None:
    assert part in error(make(input=MATRIX), GOOD, row).message


def test_an_unknown_column_suggests_the_nearest(make: Any) -> None:
    found = make(input=MATRIX)
    assert error(found, GOOD | {"agge": 1}).hint == "did you mean 'age'?"
    assert error(found, GOOD | {"zzz": 1}).hint == "its columns are age, rooms, sold"


def test_a_long_value_is_cut_in_the_error(make: Any) -> None:
    assert len(error(make(input=MATRIX), GOOD | {"age": "x" * 9999}).message) < 160


def test_nan_is_a_number_where_json_was_extended(make: Any) -> None:
    found = make(input=MATRIX)
    batch = found.tensors(found.rows(b'{"age": NaN, "rooms": 1}', "application/json"))["x"]
    assert np.isnan(batch[0, 0])


NULLABLE = TableInput(tensor="x", columns=(Column("age"), Column("rooms", nullable=True)))
TWO = (("x", "FP32", ("batch", 2)),)


def test_a_missing_number_is_nan_where_the_column_is_nullable(make: Any) -> None:
    found = make(TWO, input=NULLABLE)
    parsed = found.rows(b'{"age": 3, "rooms": null}', "application/json")
    parsed += found.rows(b"age,rooms\n3,\n", "text/csv")
    batch = found.tensors(parsed)["x"]

    np.testing.assert_array_equal(batch, [[3, np.nan], [3, np.nan]])
    assert json.loads(found.example({"x": batch}).body) == {"age": 3, "rooms": None}


def test_a_nullable_column_must_be_there_and_others_must_have_a_value(make: Any) -> None:
    found = make(TWO, input=NULLABLE)

    absent = error(found, {"age": 3})
    assert "no column 'rooms'" in absent.message
    assert "null says that it is missing" in (absent.hint or "")
    assert "no value for column 'age'" in error(found, {"age": None, "rooms": 2}).message


def test_files_and_plain_values_are_not_taken(make: Any) -> None:
    found = make(input=MATRIX)
    with pytest.raises(UnsupportedMedia):
        found.rows(b"x", "image/png")


@pytest.mark.parametrize("declared", [MATRIX, MIXED])
def test_the_example_becomes_the_row_it_was_made_of(make: Any, declared: TableInput) -> None:
    found = make(MIXED_INPUTS, input=declared) if declared is MIXED else make(input=declared)
    row = {"age": 5.1, "rooms": 3} | ({"city": "Zürich"} if declared is MIXED else {"sold": True})
    inputs = found.tensors([row])
    payload = found.example(inputs)
    assert json.loads(payload.body) == row
    again = found.tensors(found.rows(payload.body, payload.content_type))
    for name, array in inputs.items():
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize(
    ("inputs", "declared", "part"),
    [
        ((("x", "FP32", ("batch", 2)),), MATRIX, "3 columns into 'x'"),
        ((("z", "FP32", ("batch", 3)),), MATRIX, "no input of the model"),
        (
            (("x", "FP32", ("batch", 3)), ("z", "FP32", ("batch", 1))),
            MATRIX,
            "fills the input 'z'",
        ),
        (
            (("x", "FP32", ("batch", 1)),),
            TableInput(tensor="x", columns=(Column("a", "string"),)),
            "is a string",
        ),
        (
            (("x", "FP32", ("batch", 1)),),
            TableInput(tensor="x", columns=(Column("a", default="b"),)),
            "default 'b'",
        ),
        (
            (("x", "FP32", ("batch", 2)),),
            TableInput(tensor="x", columns=(Column("a"), Column("a"))),
            "twice",
        ),
        (
            (("x", "BYTES", ("batch", 1)),),
            TableInput(tensor="x", columns=(Column("a", "string", nullable=True),)),
            "only numbers can be nullable",
        ),
        (
            (("x", "INT64", ("batch", 1)),),
            TableInput(tensor="x", columns=(Column("a", "integer", nullable=True),)),
            "whole numbers only",
        ),
        (
            (("x", "FP32", ("batch", 1)),),
            TableInput(columns=(Column("a"),)),
            "goes into no tensor",
        ),
    ],
)
def test_a_table_that_does_not_fit_the_signature_is_refused(
    make: Any, inputs: Any, declared: TableInput, part: str
) -> None:
    with pytest.raises(PackageError, match=part):
        make(inputs, input=declared)


def test_two_csv_columns_of_one_name_are_refused(make: Any) -> None:
    found = make(input=MATRIX)
    with pytest.raises(InvalidRequest, match="two columns 'age'"):
        found.rows(b"age,rooms,age\n1,2,3\n", "text/csv")
