"""Columns go into inputs by their names, or a sentence says why they cannot."""

import json

import numpy as np
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.runtime.processing.declaration import Column, Processing, TableInput

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["sl", "sw", "pl", "pw"]


def table(*, nullable=False, default=None, kind="number"):
    columns = [Column(name, type=kind, nullable=nullable, default=default) for name in NAMES]
    return Processing(input=TableInput(columns=tuple(columns), tensor="x"))


@pytest.fixture
def answer(run, iris_package, tmp_path):
    """Predict an Arrow table; return the scores and the rejects."""

    def answer(columns, processing=None, **choices):
        pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
        package = iris_package(
            tmp_path / f"package-{len(list(tmp_path.iterdir()))}",
            processing=processing or Processing(),
        )
        out, _ = run(package, None, "out.npz", source="rows.parquet", overwrite=True, **choices)
        rejects = tmp_path / "out.npz.rejects.jsonl"
        lines = rejects.read_text().splitlines() if rejects.exists() else []
        with np.load(out) as found:
            return found["scores"], [json.loads(line) for line in lines]

    return answer


def columns_of(rows, names=NAMES):
    return dict(zip(names, rows.T, strict=True))


def test_columns_are_found_by_name_whatever_their_order_and_neighbours(answer, iris):
    columns = columns_of(iris[0])
    shuffled = {name: columns[name] for name in ("pw", "sl", "pl", "sw")} | {"id": iris[1]}
    expected, _ = answer(columns, table())
    found, _ = answer(shuffled, table())
    np.testing.assert_array_equal(found, expected)


def test_map_takes_a_column_of_another_name(answer, iris):
    expected, _ = answer(columns_of(iris[0]), table())
    renamed = columns_of(iris[0], ["a", "sw", "pl", "pw"])
    found, _ = answer(renamed, table(), mapping={"sl": ("a",)})
    np.testing.assert_array_equal(found, expected)
    lists = {"features": pa.array(iris[0].tolist(), pa.list_(pa.float32())), "note": ["?"] * 150}
    found, _ = answer(lists, mapping={"x": ("features",)})
    np.testing.assert_array_equal(found, expected)
    wide = {"id": np.arange(150)} | columns_of(iris[0])
    found, _ = answer(wide, mapping={"x": tuple(NAMES)})
    np.testing.assert_array_equal(found, expected)
    found, _ = answer(wide, keep=("id",))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["target", "label", "y"])
def test_a_target_beside_the_features_is_ignored(answer, iris, name):
    expected, _ = answer(columns_of(iris[0]))
    found, _ = answer({name: iris[1]} | columns_of(iris[0]))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float64", "int8", "int64", "float16"])
def test_other_numbers_are_taken_as_they_are(answer, iris, dtype):
    rounded = np.rint(iris[0])
    expected, _ = answer(columns_of(rounded))
    for processing in (None, table()):
        found, _ = answer(columns_of(rounded.astype(dtype)), processing)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("columns", "processing", "choices", "message", "hint"),
    [
        (["sl", "sw", "pl"], table(), {}, r"has no column 'pw'", "there are sl, sw, pl"),
        (["sl", "sw", "pl", "pW"], table(), {}, r"has no column 'pw'", "there are sl, sw, pl, pW"),
        (["a", "b", "c"], None, {}, "has 3 columns, and input 'x' takes 4", "--map x=A,B,C"),
        ([*NAMES, "id"], None, {}, "has 5 columns, and input 'x' takes 4", "sl, sw, pl, pw, id"),
        (
            NAMES,
            table(),
            {"mapping": {"sk": ("sl",)}},
            "no column of the package 'sk'",
            "there are sl",
        ),
        (NAMES, table(), {"mapping": {"sl": ("s",)}}, "has no column 's'", "there are sl"),
        (NAMES, None, {"mapping": {"X": ("sl",)}}, "'iris' has no input 'X'", "there is x"),
        (NAMES, table(), {"keep": ("ID",)}, "has no column 'ID'", "there are"),
    ],
)
def test_names_that_do_not_fit_are_a_sentence(
    answer, iris, columns, processing, choices, message, hint
):
    rows = np.resize(iris[0], (5, len(columns)))
    with pytest.raises(DataError, match=message) as error:
        answer(columns_of(rows, columns), processing, **choices)
    assert hint in error.value.hint


def test_types_that_no_row_could_be_right_in_are_a_sentence(answer, iris):
    columns = columns_of(iris[0]) | {"pw": ["wide"] * 150}
    with pytest.raises(DataError, match=r"column 'pw' of .* is string, and 'pw' must be a number"):
        answer(columns, table())
    with pytest.raises(DataError, match=r"column 'pw' of .* is string, and input 'x' is FP32"):
        answer(columns)


def test_missing_numbers_are_nan_defaults_or_rejects_as_the_package_says(answer, iris):
    holes = columns_of(iris[0][:6].astype(float))
    holes["pl"] = pa.array([1.0, None, 2.0, None, float("nan"), 3.0])
    found, rejects = answer(holes, table(nullable=True))
    assert np.isnan(found).any(axis=1).tolist() == [False, True, False, True, True, False]
    assert rejects == []
    found, _ = answer(holes)  # a model that declares nothing: pandas writes NaN as null
    assert np.isnan(found).any(axis=1).tolist() == [False, True, False, True, True, False]
    found, rejects = answer(holes, table(default=2.0))
    assert np.isnan(found).any(axis=1).tolist() == [False, False, False, False, True, False]
    found, rejects = answer(holes, table())
    assert len(found) == 4
    assert [(each["row"], each["reason"].partition(" (")[0]) for each in rejects] == [
        (2, "has no value for column 'pl'"),
        (4, "has no value for column 'pl'"),
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fractions_where_whole_numbers_belong_are_rejected(answer, iris, dtype):
    columns = columns_of(np.rint(iris[0][:5]))
    columns["sl"] = np.array([1, 2.5, 3, 4, 5.5], dtype)
    found, rejects = answer(columns, table(kind="integer"))
    assert len(found) == 3
    assert [each["row"] for each in rejects] == [2, 5]
    assert rejects[0]["reason"] == "column 'sl' is 2.5, and it must be a whole number"


def test_categories_and_lists_of_several_lengths(answer, iris):
    lists = [row.tolist() for row in iris[0][:4]]
    lists[2] = lists[2][:3]
    found, rejects = answer({"x": pa.array(lists)})
    assert len(found) == 3
    assert rejects[0]["row"] == 3
    assert "unexpected shape for input 'x'" in rejects[0]["reason"]
