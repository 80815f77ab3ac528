"""A trained model in a file of its own, or as module:object → package."""

import sys

import numpy as np
import pytest

from mlserve_cli.errors import DataError, DefinitionError, MissingExtra, StepError
from mlserve_cli.export.export import export

pytest.importorskip("xgboost")
pytest.importorskip("lightgbm")
pytest.importorskip("catboost")


@pytest.fixture
def wine(tmp_path):
    """Rows of the wine table as CSV, with a target; their matrix, names and classes."""
    from sklearn.datasets import load_wine

    data = load_wine()
    names = [name.replace("/", "_") for name in data.feature_names]
    lines = [",".join([*names, "target"])]
    lines += [
        ",".join([*map(str, row), str(target)])
        for row, target in zip(data.data, data.target, strict=True)
    ]
    path = tmp_path / "wine.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, data.data, names, data.target


def answers(package, rows):
    engine = package.engine()
    try:
        return engine.run({"input": rows.astype(np.float32)})
    finally:
        engine.close()


def fitted(library, rows, names, classes):
    import pandas as pd

    frame = pd.DataFrame(rows, columns=names)
    if library == "xgboost":
        from xgboost import XGBClassifier

        return XGBClassifier(n_estimators=8, n_jobs=1).fit(frame, classes), frame
    if library == "lightgbm":
        from lightgbm import LGBMClassifier

        return LGBMClassifier(n_estimators=8, n_jobs=1, verbose=-1).fit(frame, classes), frame
    from catboost import CatBoostClassifier

    model = CatBoostClassifier(iterations=8, thread_count=1, verbose=0, allow_writing_files=False)
    return model.fit(frame, classes), frame


@pytest.mark.parametrize(
    ("library", "file"),
    [
        ("xgboost", "wine.json"),
        ("xgboost", "wine.ubj"),
        ("lightgbm", "wine.txt"),
        ("catboost", "wine.cbm"),
    ],
)
def test_a_file_of_the_library_and_rows_make_a_package_with_columns(tmp_path, wine, library, file):
    csv, rows, names, classes = wine
    model, frame = fitted(library, rows, names, classes)
    getattr(model, "booster_", model).save_model(str(tmp_path / file))

    package = export(str(tmp_path / file), tmp_path / "package", calibration=str(csv))
    table = package.manifest.processing.input
    found = answers(package, rows)

    assert package.manifest.name == "wine"
    assert package.manifest.sample == "real"
    assert [column.name for column in table.columns] == names
    assert table.tensor == "input"
    np.testing.assert_array_equal(found["label"], np.ravel(model.predict(frame)))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(frame), atol=1e-5)


def test_columns_in_another_order_are_put_into_the_models_order(tmp_path, wine):
    csv, rows, names, classes = wine
    model, _ = fitted("xgboost", rows, names, classes)
    model.save_model(tmp_path / "wine.ubj")
    lines = [line.split(",") for line in csv.read_text().splitlines()]
    csv.write_text("\n".join(",".join(line[::-1]) for line in lines))

    package = export(str(tmp_path / "wine.ubj"), tmp_path / "package", calibration=str(csv))

    assert [column.name for column in package.manifest.processing.input.columns] == names


def test_a_pickle_is_loaded_only_with_trust(tmp_path, wine):
    import joblib
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    csv, rows, _, classes = wine
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, classes)
    for name in ("wine.joblib", "wine.pkl"):
        joblib.dump(model, tmp_path / name)
        with pytest.raises(StepError, match="runs whatever its author wrote") as refusal:
            export(str(tmp_path / name), tmp_path / "package", calibration=str(csv))
        assert "--trust" in refusal.value.hint
        assert "skops" in refusal.value.hint
        assert not (tmp_path / "package").exists()

        package = export(
            str(tmp_path / name), tmp_path / name[-3:], calibration=str(csv), trust=True
        )
        np.testing.assert_array_equal(answers(package, rows)["label"], model.predict(rows))


def test_a_pickle_that_nobody_vouched_for_is_never_opened(tmp_path, wine):
    (tmp_path / "bad.pkl").write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")
    with pytest.raises(StepError, match="is a pickle"):
        export(str(tmp_path / "bad.pkl"), tmp_path / "package", calibration=str(wine[0]))


def test_a_skops_file_names_the_types_that_it_would_make(tmp_path, wine):
    skops = pytest.importorskip("skops.io")
    from sklearn.linear_model import LogisticRegression

    csv, rows, _, classes = wine
    model = LogisticRegression(solver="newton-cholesky").fit(rows, classes)
    skops.dump(model, tmp_path / "wine.skops")
    package = export(str(tmp_path / "wine.skops"), tmp_path / "package", calibration=str(csv))
    np.testing.assert_array_equal(answers(package, rows)["label"], model.predict(rows))

    boosted, _ = fitted("lightgbm", rows, wine[2], classes)
    skops.dump(boosted, tmp_path / "other.skops")
    with pytest.raises(StepError, match=r"collections\.\w+|lightgbm\.\w+"):
        export(str(tmp_path / "other.skops"), tmp_path / "other", calibration=str(csv))
    export(str(tmp_path / "other.skops"), tmp_path / "other", calibration=str(csv), trust=True)


def test_an_object_of_a_module_is_exported_by_its_name(tmp_path, wine, monkeypatch):
    csv, *_ = wine
    (tmp_path / "wine_models.py").write_text(
        "from sklearn.datasets import load_wine\n"
        "from sklearn.naive_bayes import GaussianNB\n"
        "best = GaussianNB().fit(*load_wine(return_X_y=True))\n"
        "class late:\n"
        "    @staticmethod\n"
        "    def made(): return best\n"
        "text = 'no model'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = export("wine_models:best", tmp_path / "package", calibration=str(csv))

    assert package.manifest.name == "best"
    export("wine_models:late.made", tmp_path / "other", calibration=str(csv))
    with pytest.raises(StepError, match="'wine_models:text' is a str, and no estimator"):
        export("wine_models:text", tmp_path / "third", calibration=str(csv))
    with pytest.raises(DefinitionError, match="has no attribute 'worst'"):
        export("wine_models:worst", tmp_path / "third", calibration=str(csv))
    with pytest.raises(DefinitionError, match="there is no module 'nowhere'"):
        export("nowhere.models:best", tmp_path / "third", calibration=str(csv))
    with pytest.raises(DefinitionError, match="comes without rows") as refusal:
        export("wine_models:best", tmp_path / "third")
    assert "--calibration" in refusal.value.hint


def test_what_does_not_fit_the_model_is_named(tmp_path, wine):
    csv, rows, names, classes = wine
    model, _ = fitted("xgboost", rows, names, classes)
    file = str(tmp_path / "wine.ubj")
    model.save_model(file)
    lines = [line.partition(",")[2] for line in csv.read_text().splitlines()]
    csv.write_text("\n".join(lines))

    with pytest.raises(DefinitionError, match="has no column 'alcohol'"):
        export(file, tmp_path / "package", calibration=str(csv))
    with pytest.raises(DataError, match=r"'gone\.csv' does not exist"):
        export(file, tmp_path / "package", calibration="gone.csv")
    (tmp_path / "bad.ubj").write_bytes(b"nonsense")
    with pytest.raises(StepError, match="is no model of XGBoost"):
        export(str(tmp_path / "bad.ubj"), tmp_path / "package", calibration=str(csv))
    assert not (tmp_path / "package").exists()


def test_a_missing_library_is_named_with_the_line_that_installs_it(tmp_path, wine, monkeypatch):
    (tmp_path / "wine.txt").write_text("tree\n")
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(
        MissingExtra, match="'lightgbm' is needed to export models of LightGBM"
    ) as e:
        export(str(tmp_path / "wine.txt"), tmp_path / "package", calibration=str(wine[0]))
    assert e.value.hint == "pip install 'mlserve-cli[boosting]'"
