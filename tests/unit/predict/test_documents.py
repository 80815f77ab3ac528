"""A folder of pictures or of texts: a row a file, with its name beside the answer."""

import csv
import json

import numpy as np
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.predict.prediction import Choices, predict
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import ImageInput, Processing, TextInput

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def greys(tmp_path):
    """A package that answers the mean grey of a picture of 4 × 4."""
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["grey"], axes=[1, 2, 3], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("grey", TensorProto.FLOAT, ["batch"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    with create(tmp_path / "greys") as draft:
        save(model, draft.serve / "model.onnx")
        declared = Processing(input=ImageInput(tensor="x", width=4, height=4, channels=1, scale=1))
        manifest = Manifest(
            name="greys", version="1", variant="fp32", inputs=(), outputs=(), processing=declared
        )
        sealed = finish(draft, manifest, [{"x": np.ones((4, 1, 4, 4), np.float32)}])
    return Package(tmp_path / "greys", sealed)


def go(package, source, out, **choices):
    return predict(package, [str(source)], str(out), choices=Choices(**choices), progress=Silent())


def test_every_picture_is_a_row_and_what_is_none_is_rejected(greys, tmp_path):
    folder = tmp_path / "pictures"
    for name, grey in (("a/1.png", 10), ("a/2.png", 20), ("b/3.jpg", 30), (".hidden.png", 40)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), grey).save(folder / name)
    (folder / "b" / "4.png").write_bytes(b"no picture")
    (folder / "b" / "5.png").symlink_to(folder / "a" / "1.png")
    (folder / "README.md").write_text("no picture, either")
    report = go(greys, folder, tmp_path / "out.csv", batch=2)
    assert (report.rows, report.rejected) == (4, 1)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [(row["file"], round(float(row["grey"]))) for row in rows] == [
        ("a/1.png", 10),
        ("a/2.png", 20),
        ("b/3.jpg", 30),
        ("b/5.png", 10),
    ]
    reject = json.loads((tmp_path / "out.csv.rejects.jsonl").read_text())
    assert reject["file"] == str(folder / "b" / "4.png")
    assert "the image is damaged" in reject["reason"]


def test_pictures_for_a_package_that_takes_none_are_a_sentence(iris_package, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="does not declare how a picture"):
        go(iris_package(), tmp_path / "1.png", tmp_path / "out.csv")


def test_a_folder_of_two_kinds_asks_for_a_choice(iris_package, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text("sl,sw,pl,pw\n1,2,3,4\n")
    (folder / "b.jsonl").write_text('{"x": [1, 2, 3, 4]}\n')
    with pytest.raises(DataError, match="several kinds: csv, jsonl") as error:
        go(iris_package(), folder, tmp_path / "out.csv")
    assert "*.csv" in error.value.hint
    assert go(iris_package(tmp_path / "p"), folder / "*.csv", tmp_path / "out.csv").rows == 1
    with pytest.raises(DataError, match="no file matches"):
        go(iris_package(tmp_path / "q"), folder / "*.npz", tmp_path / "out2.csv")


def test_the_pattern_that_is_proposed_for_pictures_among_texts_names_a_file(iris_package, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    Image.new("L", (8, 8)).save(folder / "1.png")
    (folder / "notes.txt").write_text("of the scans")
    with pytest.raises(DataError, match="several kinds: pictures, texts") as error:
        go(iris_package(), folder, tmp_path / "out.csv")
    pattern = error.value.hint.split("'")[1]
    assert len(list(folder.glob(pattern.removeprefix(f"{folder}/")))) == 1


def test_texts_are_rows_by_file_and_by_column(tmp_path):
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("Identity", ["text"], ["same"])],
        "same",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
        [helper.make_tensor_value_info("same", TensorProto.STRING, ["batch"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    with create(tmp_path / "same") as draft:
        save(model, draft.serve / "model.onnx")
        manifest = Manifest(
            name="same",
            version="1",
            variant="fp32",
            inputs=(),
            outputs=(),
            processing=Processing(input=TextInput(tensor="text")),
        )
        sample = np.array([b"a", b"b"], dtype=object)
        package = Package(tmp_path / "same", finish(draft, manifest, [{"text": sample}]))
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "1.txt").write_text("grün")
    (folder / "2.txt").write_bytes(b"\xff")
    report = go(package, folder, tmp_path / "out.jsonl")
    assert (report.rows, report.rejected) == (1, 1)
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"file": "1.txt", "same": "grün"}
    (tmp_path / "rows.csv").write_text("id,words\n7,rot\n8,\n")
    go(package, tmp_path / "rows.csv", tmp_path / "out2.jsonl", keep=("id",))
    lines = (tmp_path / "out2.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "7", "same": "rot"},
        {"id": "8", "same": ""},
    ]
