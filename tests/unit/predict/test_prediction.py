import csv
import json

import numpy as np
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.package.progress import Silent
from mlserve_cli.predict.prediction import Choices, predict
from mlserve_cli.runtime.manifest import BatchProof
from mlserve_cli.runtime.processing.declaration import ClassesOutput, Processing

HEADER = "sl,sw,pl,pw\n"


def csv_of(rows):
    return HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())


def rejects_of(out):
    text = (out.parent / f"{out.name}.rejects.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def scores(package, rows):
    engine = package.engine()
    found = engine.run({"x": rows})["scores"]
    engine.close()
    return found


def test_every_row_gets_its_answer_in_order(run, iris_package, iris):
    package = iris_package()
    out, report = run(package, csv_of(iris[0]), "out.npz", batch=7)
    assert report.rows == 150
    with np.load(out) as found:
        np.testing.assert_allclose(found["scores"], scores(package, iris[0]), atol=1e-6)


def test_csv_out_has_a_column_a_value(run, iris_package, iris):
    package = iris_package()
    out, _ = run(package, csv_of(iris[0][:3]), "out.csv")
    lines = list(csv.reader(out.read_text().splitlines()))
    assert lines[0] == ["scores_0", "scores_1", "scores_2"]
    found = np.array(lines[1:], np.float32)
    np.testing.assert_allclose(found, scores(package, iris[0][:3]), atol=1e-6)


def test_a_declared_class_is_answered_with_its_label_and_score(run, iris_package, iris):
    declared = Processing(output=ClassesOutput(tensor="scores"))
    package = iris_package(processing=declared)
    out, _ = run(package, csv_of(iris[0][[0, 60, 120]]), "out.csv")
    lines = list(csv.reader(out.read_text().splitlines()))
    assert lines[0] == ["label", "score"]
    assert [line[0] for line in lines[1:]] == ["setosa", "versicolor", "virginica"]
    out, _ = run(package, csv_of(iris[0][:1]), "out.jsonl")
    answer = json.loads(out.read_text())
    assert answer["label"] == "setosa"
    assert set(answer["scores"]) == {"setosa", "versicolor", "virginica"}


def test_a_target_column_in_the_data_is_left_out(run, iris_package, iris):
    package = iris_package()
    text = "sl,label,sw,pl,pw\n5.1,unknown,3.5,1.4,0.2\n"
    out, _ = run(package, text, "out.npz")
    with np.load(out) as found:
        np.testing.assert_allclose(found["scores"], scores(package, iris[0][:1]), atol=1e-6)


def test_a_package_that_is_not_batch_invariant_runs_row_by_row(run, iris_package, iris):
    import msgspec

    from mlserve_cli.package.package import Package

    package = iris_package()
    sizes = []

    class Watch(Package):
        def engine(self, options=None):
            engine = super().engine(options)

            class Counting:
                def run(self, tensors):
                    sizes.append(len(tensors["x"]))
                    return engine.run(tensors)

                close = engine.close

            return Counting()

    alone = msgspec.structs.replace(
        package.manifest, batch=BatchProof(invariant=False, reason="shared scale")
    )
    run(Watch(package.path, alone), csv_of(iris[0][:5]), "out.npz", batch=64)
    assert sizes == [1] * 5


def test_a_model_of_a_fixed_batch_answers_any_number_of_rows(run, tmp_path, iris, iris_onnx):
    import onnx

    from mlserve_cli.package.draft import create
    from mlserve_cli.package.finish import finish
    from mlserve_cli.package.package import Package
    from mlserve_cli.runtime.manifest import Manifest

    model = onnx.load(iris_onnx)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    with create(tmp_path / "fixed") as draft:
        onnx.save(model, draft.serve / "model.onnx")
        manifest = Manifest(name="fixed", version="1", variant="fp32", inputs=(), outputs=())
        sealed = finish(draft, manifest, [{"x": iris[0][:8]}])
    package = Package(tmp_path / "fixed", sealed)
    for name, content in (
        ("in.csv", csv_of(iris[0][:10])),
        ("in.jsonl", "".join(json.dumps({"x": row}) + "\n" for row in iris[0][:10].tolist())),
    ):
        out, report = run(package, content, "out.npz", source=name, overwrite=True)
        assert report.rows == 10
        with np.load(out) as found:
            expected = np.concatenate([scores(package, iris[0][n : n + 4]) for n in (0, 4, 8)])
            np.testing.assert_allclose(found["scores"], expected[:10], atol=1e-6)


def test_nan_is_rejected_where_the_model_would_hide_it(run, iris_package, iris):
    rows = iris[0][:9].copy()
    rows[7, 2] = np.nan
    package = iris_package(finite_inputs=True)
    out, report = run(package, csv_of(rows), "out.csv", batch=3)
    assert (report.rows, report.rejected) == (8, 1)
    (reject,) = rejects_of(out)
    assert reject["row"] == 8
    assert reject["reason"].startswith("input 'x' holds NaN or infinity, which fp32 would answer")
    out, _ = run(iris_package(package.path.parent / "float"), csv_of(rows), "out.npz")
    with np.load(out) as found:
        assert np.isnan(found["scores"]).any(axis=1).tolist() == [False] * 7 + [True, False]


def test_bad_rows_are_set_aside_with_their_reasons_and_the_others_answered(run, iris_package, iris):
    package = iris_package()
    lines = csv_of(iris[0][:20]).splitlines()
    lines[3] = "1,2,three,4"
    lines[5] = "1,2,3"
    lines[9] = '1,2,"3'  # the quote is closed in line 11
    lines[11] = '1",2,3,4'
    out, report = run(package, "\n".join(lines) + "\n", "out.npz", batch=4)
    assert [(each["row"], each["reason"]) for each in rejects_of(out)] == [
        (3, "column 'pl' is 'three', and it must be a number"),
        (
            5,
            "it has 3 values, and the header names 4 columns "
            '(a value that holds a comma stands in "quotes")',
        ),
        (
            9,
            "it has 6 values, and the header names 4 columns "
            '(a value that holds a comma stands in "quotes")',
        ),
    ]
    good = np.delete(iris[0][:20], [2, 4, 8, 9, 10], axis=0)
    assert report.rows == len(good)
    with np.load(out) as found:
        np.testing.assert_allclose(found["scores"], scores(package, good), atol=1e-6)


def test_bytes_that_are_no_text_reject_their_row_alone(run, iris_package):
    content = HEADER.encode() + b"1,2,3,4\n1,2,\xff,4\n5,6,7,8\n"
    out, report = run(iris_package(), content, "out.csv")
    assert report.rows == 2
    (reject,) = rejects_of(out)
    assert reject["row"] == 2
    assert "not UTF-8: invalid start byte" in reject["reason"]


def test_the_first_bad_row_ends_a_strict_job(run, iris_package, tmp_path):
    text = HEADER + "1,2,3,4\n" * 10 + "1,2,three,4\n"
    (tmp_path / "out.csv").write_text("before")
    before = {path.name for path in tmp_path.iterdir()} | {"in.csv", "iris"}
    message = r"row 11 of '.*in\.csv' is rejected: column 'pl' is 'three'"
    with pytest.raises(DataError, match=message):
        run(iris_package(), text, "out.csv", batch=2, overwrite=True, strict=True)
    assert (tmp_path / "out.csv").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_job_without_an_answer_says_so_and_leaves_the_reasons(run, iris_package, tmp_path):
    with pytest.raises(DataError, match="none of the 2 rows could be answered") as error:
        run(iris_package(), HEADER + "a,b,c,d\n" * 2, "out.csv")
    assert "out.csv.rejects.jsonl" in error.value.hint
    assert len(rejects_of(tmp_path / "out.csv")) == 2
    assert not (tmp_path / "out.csv").exists()
    assert not (tmp_path / ".out.csv.parts").exists()


@pytest.mark.parametrize("content", [HEADER, ""])
def test_an_input_without_rows_is_an_error(run, iris_package, content, tmp_path):
    with pytest.raises(DataError, match=r"holds no rows|is empty"):
        run(iris_package(), content, "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "iris"]


def test_one_row_is_answered(run, iris_package, iris):
    out, report = run(iris_package(), csv_of(iris[0][:1]), "out.jsonl")
    assert report.rows == 1
    assert len(out.read_text().splitlines()) == 1


def test_an_interrupt_leaves_nothing_before_the_first_part(
    run, iris_package, tmp_path, monkeypatch
):
    from mlserve_cli.predict.parts import TextPart

    def interrupted(self, piece):
        raise KeyboardInterrupt

    monkeypatch.setattr(TextPart, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(iris_package(), HEADER + "1,2,3,4\n", "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "iris"]


def test_an_output_that_exists_is_kept_unless_forced(run, iris_package, tmp_path):
    package = iris_package()
    (tmp_path / "out.csv").write_text("before")
    with pytest.raises(DataError, match="exists already") as error:
        run(package, HEADER + "1,2,3,4\n", "out.csv")
    assert "--force" in error.value.hint
    out, _ = run(package, HEADER + "1,2,3,4\n", "out.csv", overwrite=True)
    assert out.read_text().startswith("scores_0")


def test_force_replaces_folders_of_answers_and_no_others(run, iris_package, tmp_path):
    package = iris_package()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    with pytest.raises(DataError, match="is no folder of answers"):
        run(package, HEADER + "1,2,3,4\n", "letters/", overwrite=True)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "dear"
    run(package, HEADER + "1,2,3,4\n" * 9, "answers/", part=3)
    out, _ = run(package, HEADER + "1,2,3,4\n", "answers/", overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["_manifest.json", "part-00000.parquet"]


def test_force_leaves_what_is_no_answer_in_a_folder_of_answers(run, iris_package):
    package = iris_package()
    out, _ = run(package, HEADER + "1,2,3,4\n" * 9, "answers/", part=3)
    (out / "plots").mkdir()
    (out / "notes.txt").write_text("months of work")
    run(package, HEADER + "1,2,3,4\n", "answers/", overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "_manifest.json", "notes.txt", "part-00000.parquet", "plots",
    ]  # fmt: skip


def test_force_leaves_other_objects_of_a_store(iris_package, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    package, rows = iris_package(), tmp_path / "rows.csv"
    target = f"memory://{tmp_path.name}/answers/"

    def go(count):
        rows.write_text(HEADER + "1,2,3,4\n" * count)
        chosen = Choices(part=3, overwrite=True)
        predict(package, [str(rows)], target, choices=chosen, progress=Silent())

    go(9)
    for name in ("notes.txt", "plots/one.png"):
        store.pipe_file(f"/{tmp_path.name}/answers/{name}", b"months of work")
    go(1)
    found = [path.partition("/answers/")[2] for path in store.find(f"/{tmp_path.name}")]
    assert sorted(found) == ["_manifest.json", "notes.txt", "part-00000.parquet", "plots/one.png"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("out.xlsx", r"of no kind that can be written \('\.xlsx'\)"),
        ("missing/out.csv", "cannot be written: No such file"),
    ],
)
def test_a_place_that_cannot_be_written_is_an_error(run, iris_package, target, message):
    with pytest.raises(DataError, match=message):
        run(iris_package(), HEADER + "1,2,3,4\n", target)


def test_a_row_that_the_model_fails_on_is_found_in_its_batch(run, iris_package, iris):
    from mlserve_cli.package.package import Package

    runs = []

    class Failing(Package):
        def engine(self, options=None):
            engine = super().engine(options)

            class Picky:
                def run(self, tensors):
                    runs.append(len(tensors["x"]))
                    if (tensors["x"] < 0).any():
                        raise RuntimeError("negative petals\nand a long trace")
                    return engine.run(tensors)

                close = engine.close

            return Picky()

    package = iris_package()
    rows = iris[0][:16].copy()
    rows[6] = -1
    failing = Failing(package.path, package.manifest)
    out, report = run(failing, csv_of(rows), "out.npz", batch=8)
    assert rejects_of(out) == [
        {
            "file": str(out.parent / "in.csv"),
            "row": 7,
            "reason": "the model fails on it: negative petals",
        }
    ]
    assert report.rows == 15
    assert sorted(runs) == sorted([8, 4, 4, 2, 2, 1, 1, 8])  # halves, not one by one
    with np.load(out) as found:
        expected = scores(package, np.delete(rows, 6, axis=0))
        np.testing.assert_allclose(found["scores"], expected, atol=1e-6)
