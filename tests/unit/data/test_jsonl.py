import numpy as np
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.runtime.processing.declaration import Column, Processing, TableInput


def test_nested_lists_by_input_name_with_a_target_beside(load, write, make_manifest):
    manifest = make_manifest(("x", "FP32", (2, 2)))
    text = '{"x": [[1, 2], [3, 4]], "target": 1}\n\n{"x": [[5, 6], [7, NaN]], "target": 0}\n'
    (batch,) = load(write("a.jsonl", text), manifest)
    assert batch.inputs["x"].shape == (2, 2, 2)
    assert np.isnan(batch.inputs["x"][1, 1, 1])
    np.testing.assert_array_equal(batch.targets, [1, 0])


def test_bare_values_where_the_model_has_one_input(load, write, make_manifest):
    (batch,) = load(write("a.jsonl", "[1, 2]\n[3, 4]\n"), make_manifest())
    assert batch.inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert batch.targets is None


def test_objects_of_plain_numbers_make_up_the_matrix(load, write, make_manifest):
    (batch,) = load(write("a.jsonl", '{"a": 1, "b": 2, "y": 0.5}\n'), make_manifest())
    assert batch.inputs["x"].tolist() == [[1, 2]]
    np.testing.assert_array_equal(batch.targets, [0.5])


def test_targets_may_be_lists(load, write, make_manifest):
    (batch,) = load(write("a.jsonl", '{"x": [1, 2], "y": [1, 2, 3]}\n'), make_manifest())
    np.testing.assert_array_equal(batch.targets, [[1, 2, 3]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b"[1, 2]\n[3, 4\n", "row 2 is no JSON"),
        (b'[1, 2]\n["a\xff", 4]\n', "row 2 is not UTF-8"),
        (b'[1, 2]\n{"x": [1, 2]}\n', "row 2 is an object, unlike the first"),
        (b'[1, 2]\n[3, "four"]\n', "rows 1 to 2: the data of input 'x' must be numbers"),
        (b"[1, 2]\n[3]\n", "rows 1 to 2: the data of input 'x' is ragged"),
        (b"[1, 2, 3]\n", r"rows 1 to 1 do not fit the model: .* Expected \[-1,2\], got \[1,3\]"),
        (b'{"x": [1, 2]}\n{"z": [1, 2]}\n', "row 2 has no 'x'"),
    ],
)
def test_a_file_that_is_wrong_is_an_error_that_says_how(
    load, write, make_manifest, content, message
):
    with pytest.raises(DataError, match=message):
        load(write("a.jsonl", content), make_manifest())


def test_rows_of_later_batches_are_counted_from_the_files_beginning(load, write, make_manifest):
    declared = TableInput(columns=(Column("a"), Column("b")), tensor="x")
    manifest = make_manifest(processing=Processing(input=declared))
    text = '{"a": 1, "b": 2}\n' * 6 + '{"a": 1, "b": "two"}\n'
    with pytest.raises(DataError, match=r"row 7: column 'b' is 'two'"):
        load(write("a.jsonl", text), manifest, batch=4)


def test_rows_without_names_have_no_target(load, write, make_manifest):
    with pytest.raises(DataError, match="no names, so there is no target 'y'"):
        load(write("a.jsonl", "[1, 2]\n"), make_manifest(), target="y")
