import numpy as np
import pytest

from mlserve_cli.data import untyped
from mlserve_cli.errors import DataError


def test_the_rows_of_a_request_are_rows_of_data(load, write, make_manifest):
    text = '[{"a": 1, "b": 2, "y": 1}, {"a": 3, "b": NaN, "y": 0}, {"a": 5, "b": 6, "y": 1}]'
    first, second = load(write("a.json", text), make_manifest(), batch=2)
    np.testing.assert_array_equal(first.inputs["x"], [[1, 2], [3, np.nan]])
    assert second.inputs["x"].tolist() == [[5, 6]]
    np.testing.assert_array_equal(first.targets, [1, 0])


def test_a_single_object_is_one_row(load, write, make_manifest):
    (batch,) = load(write("a.json", '\ufeff{"a": 1,\n "b": 2}'), make_manifest())
    assert batch.inputs["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "holds no rows"),
        (b"", "is no JSON"),
        (b'{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n', "is no JSON"),
        (b'["\xff"]', "is not UTF-8"),
        (b'[{"a": 1, "b": 2}, 5]', "row 2 is no object, unlike the first"),
    ],
)
def test_a_document_that_is_wrong_is_an_error_that_says_how(
    load, write, make_manifest, content, message
):
    with pytest.raises(DataError, match=message):
        load(write("a.json", content), make_manifest())


def test_rows_without_a_signature_become_columns(write):
    found = untyped.read(str(write("a.json", '[{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]')), 10)
    assert found["a"].ravel().tolist() == [1, 2]
    assert [str(each) for each in found["b"].ravel()] == ["x", "y"]
