"""XGBoost, LightGBM, CatBoost → package: each kind of model answers as its library does."""

import numpy as np
import pytest

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.runtime.processing.declaration import ClassesOutput, ValuesOutput

pytest.importorskip("xgboost")
pytest.importorskip("lightgbm")
pytest.importorskip("catboost")

HEAD = """
import numpy as np
from catboost import *
from lightgbm import LGBMClassifier, LGBMRegressor, LGBMRanker
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import *
from xgboost import XGBClassifier, XGBRegressor, XGBRanker, XGBRFClassifier
import lightgbm, xgboost

def data(load, missing=0.0):
    X, y = load(return_X_y=True)
    X = X.astype(np.float32)
    X[np.random.default_rng(0).random(X.shape) < missing] = np.nan
    return X, y

LIGHT = {"n_estimators": 15, "n_jobs": 1, "verbose": -1, "min_child_samples": 5}
XGB = {"n_estimators": 15, "n_jobs": 1}
CAT = {"iterations": 15, "thread_count": 1, "verbose": 0, "allow_writing_files": False}
GROUPS = np.full(17, 26)
"""


def fitted(estimator, data="load_wine", *, missing=0.1, fit="X, y"):
    return f"""{HEAD}
X, y = data({data}, {missing})
def model():
    return {estimator}.fit({fit})
def sample():
    return X[::3]
"""


def facts(package):
    return package.evidence("export")[0]


CLASSIFIERS = [
    "XGBClassifier(**XGB)",
    "XGBClassifier(**XGB, booster='dart', rate_drop=0.5)",
    "XGBRFClassifier(n_estimators=9, n_jobs=1)",
    "XGBClassifier(n_estimators=3, num_parallel_tree=3, n_jobs=1)",
    "LGBMClassifier(**LIGHT)",
    "LGBMClassifier(**LIGHT, boosting_type='rf', subsample=0.5, subsample_freq=1)",
    "CatBoostClassifier(**CAT)",
    "CatBoostClassifier(**CAT, nan_mode='Max')",
]


@pytest.mark.parametrize("data", ["load_wine", "load_breast_cancer"])
@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_a_classifier_answers_as_its_library_does_with_missing_values(exported, estimator, data):
    package = exported(fitted(estimator, data))
    classes = 3 if data == "load_wine" else 2

    assert [(spec.name, spec.shape) for spec in package.manifest.outputs] == [
        ("label", ("batch",)),
        ("probabilities", ("batch", classes)),
    ]
    assert package.manifest.processing.output == ClassesOutput(tensor="probabilities")
    assert package.manifest.labels == tuple(map(str, range(classes)))
    assert facts(package)["changed"] == 0.0
    assert facts(package)["edges"]["exact"]
    assert facts(package)["edges"]["deviating"] == 0.0


REGRESSORS = [
    "XGBRegressor(**XGB)",
    "XGBRegressor(**XGB, objective='count:poisson')",
    "XGBRegressor(**XGB, booster='dart', rate_drop=0.5)",
    "XGBRegressor(**XGB, max_depth=3, num_parallel_tree=2)",
    "LGBMRegressor(**LIGHT)",
    "LGBMRegressor(**LIGHT, objective='tweedie')",
    "LGBMRegressor(**LIGHT, boosting_type='rf', subsample=0.5, subsample_freq=1)",
    "CatBoostRegressor(**CAT)",
    "CatBoostRegressor(**CAT, loss_function='Poisson')",
]


@pytest.mark.parametrize("estimator", REGRESSORS)
def test_a_regressor_answers_as_its_library_does_with_missing_values(exported, estimator):
    package = exported(fitted(estimator, "load_diabetes"))

    assert [spec.name for spec in package.manifest.outputs] == ["prediction"]
    assert package.manifest.processing.output == ValuesOutput(tensor="prediction")
    assert facts(package)["relative_error"] < 1e-5
    assert facts(package)["edges"]["deviating"] == 0.0


def test_a_share_between_zero_and_one_keeps_its_logistic_function(exported):
    package = exported(
        fitted("XGBRegressor(**XGB, objective='reg:logistic')", "load_diabetes", fit="X, y / 400")
    )

    assert facts(package)["relative_error"] < 1e-5


@pytest.mark.parametrize(
    ("estimator", "fit"),
    [
        ("XGBRanker(**XGB)", "X, y > 150, qid=np.repeat(np.arange(17), 26)"),
        ("LGBMRanker(**LIGHT)", "X, (y > 150).astype(int), group=GROUPS"),
        ("CatBoostRanker(**CAT)", "X, y > 150, group_id=np.repeat(np.arange(17), 26)"),
    ],
)
def test_a_ranker_answers_its_score(exported, estimator, fit):
    package = exported(fitted(estimator, "load_diabetes", fit=fit))

    assert [spec.name for spec in package.manifest.outputs] == ["prediction"]
    assert facts(package)["edges"]["deviating"] == 0.0


@pytest.mark.parametrize(
    "booster",
    [
        "xgboost.train({OPTIONS}, xgboost.DMatrix(X, y), 15)",
        "lightgbm.train({OPTIONS}, lightgbm.Dataset(X, y), 15)",
    ],
)
@pytest.mark.parametrize(
    ("data", "xgb", "light", "outputs"),
    [
        ("load_diabetes", "reg:squarederror", "regression", ["prediction"]),
        ("load_breast_cancer", "binary:logistic", "binary", ["label", "probabilities"]),
        ("load_wine", "multi:softmax", "multiclass", ["label", "probabilities"]),
    ],
)  # fmt: skip
def test_a_native_booster_is_an_estimator_of_its_objective(
    exported, booster, data, xgb, light, outputs
):
    options = {"objective": xgb if booster.startswith("xgb") else light, "nthread": 1}
    options |= {"num_class": 3} if data == "load_wine" else {}
    options |= {} if booster.startswith("xgb") else {"verbose": -1}
    package = exported(
        f"""{HEAD}
X, y = data({data}, 0.1)
def model(): return {booster.replace("{OPTIONS}", repr(options))}
def sample(): return X[::3]
"""
    )

    assert [spec.name for spec in package.manifest.outputs] == outputs
    assert facts(package)["edges"]["deviating"] == 0.0


def test_text_classes_stay_text(exported):
    for estimator in ("LGBMClassifier(**LIGHT)", "CatBoostClassifier(**CAT)"):
        package = exported(fitted(estimator, fit="X, np.array(['a', 'b', 'c'])[y]"))

        assert package.manifest.labels == ("a", "b", "c")
        assert package.manifest.outputs[0].datatype == "BYTES"


def test_a_model_that_stopped_early_answers_with_its_best_iteration(exported):
    for estimator, fit in (
        ("XGBRegressor(n_estimators=200, n_jobs=1, early_stopping_rounds=3)",
         "X[:300], y[:300], eval_set=[(X[300:], y[300:])], verbose=False"),
        ("LGBMRegressor(n_estimators=200, n_jobs=1, verbose=-1, early_stopping_round=3)",
         "X[:300], y[:300], eval_X=X[300:], eval_y=y[300:]"),
    ):  # fmt: skip
        package = exported(fitted(estimator, "load_diabetes", fit=fit))

        assert facts(package)["edges"]["deviating"] == 0.0


def test_zeros_that_lightgbm_takes_for_missing_are_missing_in_the_package(exported):
    package = exported(
        fitted(
            "LGBMRegressor(**LIGHT, zero_as_missing=True)",
            "load_diabetes",
            fit="np.where(np.abs(X) < 0.01, 0, X), y",
        )
    )
    engine = package.engine()
    row = np.full((1, 10), 0.03, np.float32)
    hidden = row.copy()
    hidden[0, 2] = np.nan
    row[0, 2] = 0.0
    try:
        found = [engine.run({"input": each})["prediction"].item() for each in (row, hidden)]
    finally:
        engine.close()

    assert found[0] == found[1]
    assert facts(package)["edges"]["deviating"] == 0.0


def test_a_number_that_xgboost_takes_for_missing_is_missing_in_the_package(exported):
    package = exported(
        fitted(
            "XGBRegressor(**XGB, missing=-1.0)",
            "load_diabetes",
            missing=0,
            fit="np.where(np.abs(X) < 0.01, -1.0, X), y",
        )
    )

    assert facts(package)["edges"]["deviating"] == 0.0


def test_a_booster_in_a_pipeline_is_converted_by_the_same_converter(exported):
    for estimator in (
        "XGBClassifier(**XGB)", "LGBMClassifier(**LIGHT)", "CatBoostClassifier(**CAT)"
    ):  # fmt: skip
        package = exported(fitted(f"make_pipeline(StandardScaler(), {estimator})", missing=0))
        edges = facts(package)["edges"]

        assert [spec.name for spec in package.manifest.outputs] == ["label", "probabilities"]
        assert not edges["exact"]
        assert edges["splits"] > 5
        assert edges["deviating"] == 0.0


@pytest.mark.parametrize(
    ("estimator", "sentence"),
    [
        ("LGBMRegressor(**LIGHT, linear_tree=True)", "linear functions in its leaves"),
        ("XGBRegressor(**XGB, booster='gblinear')", "is a 'gblinear', and only trees"),
        ("CatBoostRegressor(**CAT, grow_policy='Lossguide')", "oblivious trees"),
        ("LGBMRegressor(**LIGHT, objective='cross_entropy')", "LGBMRegressor of LightGBM cannot"),
        ("LGBMClassifier(**LIGHT, objective='multiclassova')", "differs from its source"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_the_reason(exported, estimator, sentence):
    binary = "y / 400" if "cross" in estimator else "y"
    data = "load_wine" if "Classifier" in estimator else "load_diabetes"
    with pytest.raises(StepError, match=sentence):
        exported(fitted(estimator, data, missing=0, fit=f"X, {binary}"))


def test_an_unfitted_booster_is_refused(exported):
    for estimator in ("XGBRegressor()", "LGBMRegressor()", "CatBoostRegressor()"):
        with pytest.raises(DefinitionError, match="that is not fitted"):
            exported(f"{HEAD}\ndef model(): return {estimator}\ndef sample(): return np.eye(3)")


CARS = f"""{HEAD}
import json, pathlib
import pandas as pd
from vega_datasets import data as vega
CARS = pd.DataFrame(json.loads(pathlib.Path(vega.cars.filepath).read_text()))
CARS = CARS.dropna(subset=["Miles_per_Gallon"])
X = CARS[["Cylinders", "Displacement", "Horsepower", "Weight_in_lbs", "Origin"]].copy()
X["Cylinders"] = X["Cylinders"].astype("category")
X["Origin"] = X["Origin"].astype("category")
X["heavy"] = X["Weight_in_lbs"] > 3000
y = CARS["Miles_per_Gallon"]
def sample():
    return X
"""


@pytest.mark.parametrize(
    "model",
    [
        "LGBMRegressor(**LIGHT, min_data_per_group=5, cat_smooth=1).fit(X, y)",
        "XGBRegressor(**XGB, enable_categorical=True, max_cat_to_onehot=1).fit(X, y)",
        "lightgbm.train({'verbose': -1, 'nthread': 1}, lightgbm.Dataset(X, y), 15)",
    ],
)
def test_a_data_frame_gives_an_input_a_column_and_categories_are_taken_as_text(exported, model):
    pytest.importorskip("vega_datasets")
    package = exported(f"{CARS}\ndef model(): return {model}")
    columns = {each.name: each for each in package.manifest.processing.input.columns}

    assert {spec.name: spec.datatype for spec in package.manifest.inputs} == {
        "Cylinders": "INT64",
        "Displacement": "FP32",
        "Horsepower": "FP32",
        "Weight_in_lbs": "INT64",
        "Origin": "BYTES",
        "heavy": "BOOL",
    }
    assert [columns[name].type for name in ("Cylinders", "Horsepower", "Origin", "heavy")] == [
        "integer", "number", "string", "boolean",
    ]  # fmt: skip
    assert [name for name, column in columns.items() if column.nullable] == ["Horsepower"]
    assert facts(package)["edges"]["deviating"] == 0.0
    assert facts(package)["relative_error"] < 1e-5


def test_categories_of_catboost_are_refused_by_the_name_of_their_column(exported):
    pytest.importorskip("vega_datasets")
    with pytest.raises(StepError, match="columns of categories as ONNX: 'Cylinders', 'Origin'"):
        exported(
            f"{CARS}\ndef model():\n"
            "    return CatBoostRegressor(**CAT, cat_features=['Cylinders', 'Origin']).fit(X, y)"
        )


def test_thresholds_rounded_to_the_nearest_float32_are_caught_beside_the_splits(
    exported, monkeypatch
):
    """As onnxmltools writes LightGBM's float64 thresholds without the mending."""
    from mlserve_cli.export.boosting import lightgbm

    monkeypatch.setattr(lightgbm, "floor", lambda value: float(np.float32(min(value, 3e38))))
    with pytest.raises(StepError, match="next to the splits of its trees the exported model"):
        exported(fitted("LGBMRegressor(**LIGHT)", "load_diabetes", missing=0))
