"""Every kind of input gives the same answers, and every format of output holds them."""

import csv
import json

import msgspec
import numpy as np
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.predict import answers, blocks
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Column,
    Processing,
    TableInput,
    ValuesOutput,
)
from tests.row_files import NAMES, table_of, write

pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")

TABLE = Processing(
    input=TableInput(columns=tuple(Column(name) for name in NAMES), tensor="x"),
    output=ClassesOutput(tensor="scores"),
)


@pytest.mark.parametrize("target", [*blocks.READERS.values(), *answers.FORMATS.values()])
def test_every_entry_of_the_tables_is_there(target):
    import importlib

    module, _, name = target.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("declared", [Processing(), TABLE], ids=["tensors", "table"])
@pytest.mark.parametrize(
    "ending",
    ["parquet", "arrow", "stream.arrow", "feather", "csv", "csv.gz", "jsonl", "jsonl.gz", "json",
     "npz", "npy"],
)  # fmt: skip
def test_every_kind_of_input_gives_the_same_answers(
    run, iris_package, iris, tmp_path, ending, declared
):
    package = iris_package(processing=declared)
    write(tmp_path / f"rows.{ending}", iris[0])
    keep = ("id",) if ending != "npy" else ()
    if declared.input is None and ending not in ("npz", "npy"):
        keep = ("id",)  # what is kept is no column of the matrix
    out, report = run(package, None, "out.npz", source=f"rows.{ending}", batch=7, keep=keep)
    assert report.rows == 150
    with np.load(out) as found:
        engine = package.engine()
        expected = engine.run({"x": iris[0]})["scores"]
        engine.close()
        np.testing.assert_allclose(found["scores"], expected, atol=1e-6)
        if keep:
            assert [int(number) for number in found["id"]] == list(range(150))


@pytest.mark.parametrize("how", ["cut off", "damaged"])
@pytest.mark.parametrize("ending", ["csv.gz", "jsonl.gz", "npz"])
def test_a_packed_file_that_is_cut_off_or_damaged_is_a_sentence(
    run, iris_package, ending, how, tmp_path
):
    path = tmp_path / f"rows.{ending}"
    # What is wrong lies behind the first block.
    many = np.random.default_rng(0).integers(0, 99, (3000, 4)).astype(np.float32) / 8
    if ending == "npz":
        np.savez_compressed(path, x=many)
    else:
        write(path, many)
    content = path.read_bytes()
    place, other = 2000, bytes(range(256)) * 8
    rest = b"" if how == "cut off" else other + content[place + len(other) :]
    path.write_bytes(content[:place] + rest)
    keep = () if ending == "npz" else ("id",)
    with pytest.raises(DataError, match=rf"rows\.{ending}' (cannot be read|is no whole .* file): "):
        run(iris_package(), None, "out.csv", source=path.name, batch=7, part=70, keep=keep)


def test_outputs_of_every_format_hold_the_same_classes(run, iris_package, iris, tmp_path):
    package = iris_package(processing=TABLE)
    labels = [str(each) for each in iris[1]]
    pq.write_table(table_of(iris[0], label=labels), tmp_path / "rows.parquet")
    found = {}
    for name in ("a.csv", "a.jsonl", "a.parquet", "a.arrow", "b.feather"):
        out, _ = run(package, None, name, source="rows.parquet", keep=("label",), part=40)
        if name.endswith("csv"):
            rows = list(csv.DictReader(out.read_text().splitlines()))
        elif name.endswith("jsonl"):
            rows = [json.loads(line) for line in out.read_text().splitlines()]
        elif name.endswith("parquet"):
            rows = pq.read_table(out).to_pylist()
        else:
            rows = feather.read_table(out).to_pylist()
        found[name] = rows
        assert [row["input_label"] for row in rows] == labels
    classes = [row["label"] for row in found["a.csv"]]
    assert (
        np.mean([a == package.manifest.labels[b] for a, b in zip(classes, iris[1], strict=True)])
        > 0.9
    )
    for rows in found.values():
        assert [row["label"] for row in rows] == classes
        scores = [float(row["score"]) for row in rows]
        np.testing.assert_allclose(scores, [float(row["score"]) for row in found["a.csv"]], 1e-5)


def test_several_values_a_row_are_lists_in_parquet_and_columns_in_csv(run, iris_package, iris):
    package = iris_package()
    text = ",".join(NAMES) + "\n5.1,3.5,1.4,0.2\n6.2,2.2,4.5,1.5\n"
    out, _ = run(package, text, "out.parquet")
    (lists,) = pq.read_table(out).to_pydict().values()
    assert [len(each) for each in lists] == [3, 3]
    out, _ = run(package, text, "out.csv")
    lines = list(csv.reader(out.read_text().splitlines()))
    assert lines[0] == ["scores_0", "scores_1", "scores_2"]
    np.testing.assert_allclose(np.array(lines[1:], np.float32), lists, rtol=1e-6)


def test_parquet_has_the_scores_threshold_and_softmax_of_a_server(iris_package):
    from mlserve_cli.runtime import processing

    made = iris_package().manifest
    for declared in (
        ClassesOutput(tensor="scores", softmax=True, threshold=0.4),
        ClassesOutput(tensor="scores"),
    ):
        manifest = msgspec.structs.replace(made, processing=Processing(output=declared))
        processor = processing.build(manifest, None)
        nan = np.nan
        scores = np.array(
            [[0.2, 0.7, 0.1], [0.5, 0.5, 0.2], [nan, 0.1, 0.3], [nan, nan, nan], [9, -np.inf, 0]],
            np.float32,
        )
        piece = answers.ArrowAnswers(manifest, processor).piece([{"scores": scores}], {})
        for row, answer in zip(
            piece.content.to_pylist(), processor.answers({"scores": scores}), strict=True
        ):
            assert row["label"] == answer["label"]
            assert (row["score"] is None) == (answer["score"] is None)
            if row["score"] is not None:
                assert row["score"] == pytest.approx(answer["score"], rel=1e-5)


def test_a_value_is_a_column_called_value(iris_package):
    manifest = msgspec.structs.replace(
        iris_package().manifest, processing=Processing(output=ValuesOutput(tensor="scores"))
    )
    one = answers.ArrowAnswers(manifest, None).piece([{"scores": np.ones((2, 1), "f4")}], {})
    assert one.content.to_pydict() == {"value": [1.0, 1.0]}
    two = answers.ArrowAnswers(manifest, None).piece([{"scores": np.ones((1, 2), "f4")}], {})
    assert two.content.to_pydict() == {"values": [[1.0, 1.0]]}


def test_answers_with_other_columns_are_an_error_that_points_to_json_lines(iris_package):
    class Processor:
        def answers(self, outputs):
            return [{"a": 1}, {"b": 2}]

    made = answers.CsvAnswers(iris_package().manifest, Processor())
    with pytest.raises(DataError, match="an answer has the columns b, and those before") as error:
        made.piece([{}], {})
    assert error.value.hint == "write to .jsonl"


def test_nested_and_bare_answers_become_flat_columns(iris_package):
    class Processor:
        def __init__(self, *answers):
            self.answers = lambda outputs: list(answers)

    nested = {"value": 1.5, "box": [1, 2], "who": {"name": "a, b", "ok": None}}
    manifest = iris_package().manifest
    piece = answers.CsvAnswers(manifest, Processor(nested)).piece([{}], {})
    assert piece.columns == ("value", "box_0", "box_1", "who_name", "who_ok")
    assert piece.content == b'1.5,1,2,"a, b",\n'
    piece = answers.CsvAnswers(manifest, Processor("yes", "no")).piece([{}], {"id": ["1", "2"]})
    assert (piece.columns, piece.content) == (("id", "answer"), b"1,yes\n2,no\n")
    piece = answers.JsonLinesAnswers(manifest, Processor(float("nan"))).piece([{}], {})
    assert piece.content == b"null\n"


def test_npz_keeps_text_without_pickling_it_and_refuses_other_shapes(iris_package, tmp_path):
    from mlserve_cli.predict import parts, whole

    made = answers.NpzAnswers(iris_package().manifest, None)
    raw = np.array([b"a", "ü".encode()], dtype=object)
    paths = [tmp_path / "1.npz", tmp_path / "2.npz"]
    for path, array in zip(paths, (raw, np.array([b"longer"], object)), strict=True):
        with path.open("wb") as file:
            part = parts.part("npz", file, None)
            part.write(made.piece([{"label": array, "size": np.array(3)}], {}))
            part.finish()
    with (tmp_path / "all.npz").open("wb") as file:
        whole.assemble_npz(paths, file)
    with np.load(tmp_path / "all.npz", allow_pickle=False) as found:
        assert found["label"].tolist() == ["a", "ü", "longer"]
        assert found["size"] == 3
    with pytest.raises(DataError, match=r"rows of shape \[4\] after \[3\]"):
        made.piece([{"y": np.zeros((2, 3))}, {"y": np.zeros((2, 4))}], {})
