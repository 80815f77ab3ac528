import csv
import json

import numpy as np
import pytest

from mlserve_cli.errors import DataError, PackageError
from mlserve_cli.runtime.manifest import BatchProof
from mlserve_cli.runtime.processing.declaration import ClassesOutput, Processing

HEADER = "sl,sw,pl,pw\n"


def csv_of(rows):
    return HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())


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


def test_nan_is_refused_with_its_row_where_the_model_would_hide_it(run, iris_package, iris):
    rows = iris[0][:9].copy()
    rows[7, 2] = np.nan
    package = iris_package(finite_inputs=True)
    with pytest.raises(DataError, match="row 8: input 'x' holds NaN"):
        run(package, csv_of(rows), "out.csv", batch=3)
    out, _ = run(iris_package(package.path.parent / "float"), csv_of(rows), "out.npz")
    with np.load(out) as found:
        assert np.isnan(found["scores"]).any(axis=1).tolist() == [False] * 7 + [True, False]


def test_an_error_in_the_middle_leaves_what_was_there_and_nothing_else(run, iris_package, tmp_path):
    package = iris_package()
    text = HEADER + "1,2,3,4\n" * 10 + "1,2,three,4\n"
    (tmp_path / "out.csv").write_text("before")
    before = {path.name for path in tmp_path.iterdir()} | {"in.csv"}
    with pytest.raises(DataError, match="row 11: column 'pl' is 'three'"):
        run(package, text, "out.csv", batch=2, overwrite=True)
    assert (tmp_path / "out.csv").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == before


def test_an_interrupt_leaves_nothing(run, iris_package, tmp_path, monkeypatch):
    from mlserve_cli.predict.csv import CsvWriter

    package = iris_package()

    def interrupted(self, outputs):
        raise KeyboardInterrupt

    monkeypatch.setattr(CsvWriter, "write", interrupted)
    before = {path.name for path in tmp_path.iterdir()} | {"in.csv"}
    with pytest.raises(KeyboardInterrupt):
        run(package, HEADER + "1,2,3,4\n", "out.csv")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_an_output_that_exists_is_kept_unless_forced(run, iris_package, tmp_path):
    package = iris_package()
    (tmp_path / "out.csv").write_text("before")
    with pytest.raises(DataError, match="exists already") as error:
        run(package, HEADER + "1,2,3,4\n", "out.csv")
    assert "--force" in error.value.hint
    out, _ = run(package, HEADER + "1,2,3,4\n", "out.csv", overwrite=True)
    assert out.read_text().startswith("scores_0")


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("out.xlsx", DataError, r"of no kind that can be written \('\.xlsx'\)"),
        ("missing/out.csv", PackageError, "cannot be written: No such file"),
    ],
)
def test_a_place_that_cannot_be_written_is_an_error(run, iris_package, target, error, message):
    with pytest.raises(error, match=message):
        run(iris_package(), HEADER + "1,2,3,4\n", target)


def test_a_row_that_the_model_fails_on_is_named(run, iris_package, iris):
    from mlserve_cli.package.package import Package

    class Failing(Package):
        def engine(self, options=None):
            engine = super().engine(options)

            class Picky:
                def run(self, tensors):
                    if (tensors["x"] < 0).any():
                        raise RuntimeError("negative petals\nand a long trace")
                    return engine.run(tensors)

                close = engine.close

            return Picky()

    package = iris_package()
    rows = iris[0][:10].copy()
    rows[6] = -1
    with pytest.raises(DataError, match=r"the model fails on row 7: negative petals\.$"):
        run(Failing(package.path, package.manifest), csv_of(rows), "out.csv", batch=4)
