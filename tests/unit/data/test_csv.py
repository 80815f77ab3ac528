import numpy as np
import pytest

from mlserve_cli.errors import DataError, MlserveError
from mlserve_cli.runtime.processing.declaration import (
    Column,
    Processing,
    PythonProcessing,
    TableInput,
    TextInput,
)


@pytest.fixture
def table(make_manifest):
    declared = TableInput(
        columns=(
            Column("age", tensor="age"),
            Column("member", "boolean", default=False, tensor="member"),
        )
    )
    return make_manifest(
        ("age", "FP32", (1,)), ("member", "FP32", (1,)), processing=Processing(input=declared)
    )


def test_columns_make_up_the_matrix_in_their_order_without_the_target(load, write, make_manifest):
    (batch,) = load(write("a.csv", "a,target,b\n1,0,2\n3,1,4.5\n"), make_manifest())
    np.testing.assert_array_equal(batch.inputs["x"], np.array([[1, 2], [3, 4.5]], np.float32))
    assert batch.inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(batch.targets, [0, 1])
    assert batch.targets.dtype == np.int64


def test_a_column_named_like_a_target_is_a_feature_where_the_model_needs_it(
    load, write, make_manifest
):
    (batch,) = load(write("a.csv", "a,y\n1,2\n"), make_manifest())
    np.testing.assert_array_equal(batch.inputs["x"], [[1, 2]])
    assert batch.targets is None


def test_a_target_of_another_name_is_taken_when_it_is_named(load, write, make_manifest):
    (batch,) = load(write("a.csv", "a,b,price\n1,2,9.5\n"), make_manifest(), target="price")
    np.testing.assert_array_equal(batch.targets, [9.5])


def test_columns_named_as_the_inputs_fill_them(load, write, make_manifest):
    manifest = make_manifest(("age", "FP32", (1,)), ("n", "INT64", ()), ("name", "BYTES", (1,)))
    (batch,) = load(write("a.csv", "id,n,age,name\n7,3,41.5,Zoë\n"), manifest)
    np.testing.assert_array_equal(batch.inputs["age"], [[41.5]])
    np.testing.assert_array_equal(batch.inputs["n"], [3])
    assert batch.inputs["name"].tolist() == [["Zoë".encode()]]


def test_names_of_labels_become_class_numbers(load, write, make_manifest):
    manifest = make_manifest(labels=("cat", "dog"))
    (batch,) = load(write("a.csv", "a,b,label\n1,2,dog\n3,4,cat\n5,6,1\n"), manifest)
    np.testing.assert_array_equal(batch.targets, [1, 0, 1])


def test_a_target_that_is_no_label_is_an_error_that_names_the_row(load, write, make_manifest):
    with pytest.raises(DataError, match=r"row 2: the target 'cow' is no label") as error:
        load(write("a.csv", "a,b,label\n1,2,dog\n3,4,cow\n"), make_manifest(labels=("cat", "dog")))
    assert error.value.hint == "they are cat, dog"


def test_rows_come_in_batches_and_the_last_may_be_short(load, write, make_manifest):
    text = "a,b\n" + "".join(f"{n},{n}\n" for n in range(5))
    batches = load(write("a.csv", text), make_manifest(), batch=2)
    assert [batch.size for batch in batches] == [2, 2, 1]
    assert np.concatenate([batch.inputs["x"] for batch in batches])[:, 0].tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_a_table_takes_its_columns_with_defaults_and_leaves_others_out(load, write, table):
    (batch,) = load(write("a.csv", "id,age,member,y\n1,41,true,0\n2,9,,1\n"), table)
    np.testing.assert_array_equal(batch.inputs["age"], [[41], [9]])
    np.testing.assert_array_equal(batch.inputs["member"], [[1], [0]])
    np.testing.assert_array_equal(batch.targets, [0, 1])


def test_a_missing_column_is_named_with_what_was_perhaps_meant(load, write, table):
    with pytest.raises(DataError, match="has no column 'age'") as error:
        load(write("a.csv", "agee,member\n1,true\n"), table)
    assert error.value.hint == "did you mean 'agee'? there are agee, member"


def test_a_misspelt_column_is_not_replaced_by_its_default(load, write, table):
    with pytest.raises(DataError, match="has no column 'member'"):
        load(write("a.csv", "age,membre\n1,true\n"), table)


def test_a_cell_of_a_table_that_is_no_number_is_named(load, write, table):
    text = "age\n" + "1\n" * 4 + "old\n"
    with pytest.raises(DataError, match=r"row 5: column 'age' is 'old', and it must be a number"):
        load(write("a.csv", text), table, batch=3)


def test_text_is_the_column_of_that_name_or_the_only_one(load, write, make_manifest):
    manifest = make_manifest(
        ("x", "BYTES", (1,)), processing=Processing(input=TextInput(tensor="x"))
    )
    for header, row in (("text,id,y", '"a, b",1,0'), ("review,y", '"a, b",0')):
        (batch,) = load(write("a.csv", f"{header}\n{row}\n"), manifest)
        assert batch.inputs["x"].tolist() == [[b"a, b"]]


def test_the_packages_own_processing_gets_numbers_as_json_has_them(load, write, make_manifest):
    manifest = make_manifest(("x", "BYTES", ()), processing=Processing(python=PythonProcessing()))
    write(
        "processing.py",
        "def preprocess(rows):\n    return {'x': [repr(sorted(row.items())) for row in rows]}\n",
    )
    (batch,) = load(write("a.csv", "zip,age,target\n00123,4.5,1\n"), manifest)
    assert batch.inputs["x"].tolist() == [b"[('age', 4.5), ('zip', '00123')]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,b\n", "holds no rows"),
        (b"1,2\n3,4\n", "has no header: its first line holds only numbers"),
        (b"a;b\n1;2\n", "is one column, 'a;b'"),
        (b"a,a\n1,2\n", "has two columns 'a'"),
        (b"a,b\n1,2\n1,2,3\n", "row 2 has 3 values, and the header names 2 columns"),
        (b"a,b\n1,2\n1,x\n", "row 2: column 'b' is 'x', and it must be a number"),
        (b"a,b\n1,\n", "row 1: column 'b' is empty, and it must be a number"),
        (b"a,b,c,d\n1,2,3,4\n", "has 4 columns, and input 'x' takes 2"),
        (b"a,b\n\xff\xfe,2\n", r"is not UTF-8 \(after row 0\)"),
        (b'a,b\n1,"2\n', "cannot be read after row 0"),
    ],
)
def test_a_file_that_is_wrong_is_an_error_that_says_how(
    load, write, make_manifest, content, message
):
    with pytest.raises(DataError, match=message):
        load(write("a.csv", content), make_manifest())


def test_a_byte_order_mark_and_empty_lines_are_no_matter(load, write, make_manifest):
    (batch,) = load(write("a.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4\r\n"), make_manifest())
    assert batch.inputs["x"].tolist() == [[1, 2], [3, 4]]


def test_a_missing_target_is_an_error_that_names_the_row(load, write, make_manifest):
    with pytest.raises(DataError, match="row 2 has no target"):
        load(write("a.csv", "a,b,y\n1,2,1\n3,4,\n"), make_manifest())


def test_a_target_that_is_not_there_is_an_error(load, write, make_manifest):
    with pytest.raises(DataError, match="has no target 'prize'") as error:
        load(write("a.csv", "a,b,price\n1,2,3\n"), make_manifest(), target="prize")
    assert "did you mean 'price'?" in error.value.hint


def test_a_target_that_the_model_itself_takes_is_an_error(load, write, table):
    with pytest.raises(DataError, match=r"'age' of '.*' is an input of the model"):
        load(write("a.csv", "age,member\n1,yes\n"), table, target="age")


def test_a_number_too_large_for_the_type_is_refused_and_an_infinity_is_not(
    load, write, make_manifest
):
    (batch,) = load(write("a.csv", "a,b\n1,inf\n"), make_manifest())
    assert np.isinf(batch.inputs["x"][0, 1])
    with pytest.raises(MlserveError, match="does not fit FP32"):
        load(write("b.csv", "a,b\n1,1e300\n"), make_manifest())
