"""scikit-learn → package: each kind of estimator answers as it did, or is refused with a reason."""

import re

import numpy as np
import pytest

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.runtime.processing.declaration import ClassesOutput, ValuesOutput

HEAD = """
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import *
from sklearn.feature_extraction.text import *
from sklearn.linear_model import *
from sklearn.cluster import KMeans, MeanShift
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import *
from sklearn.svm import LinearSVC, SVC
import numpy as np
"""


def fitted(estimator, data="load_wine", targets="y"):
    return f"""{HEAD}
X, y = {data}(return_X_y=True)
def model():
    return {estimator}.fit(X, {targets})
def sample():
    return X[::3]
"""


def test_a_classifier_answers_a_label_and_probabilities(exported):
    package = exported(fitted("make_pipeline(StandardScaler(), LogisticRegression())"))
    manifest = package.manifest

    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.inputs] == [
        ("input", "FP32", ("batch", 13))
    ]
    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.outputs] == [
        ("label", "INT64", ("batch",)),
        ("probabilities", "FP32", ("batch", 3)),
    ]
    assert manifest.labels == ("0", "1", "2")
    assert manifest.processing.output == ClassesOutput(tensor="probabilities")
    assert manifest.batch.invariant
    assert package.evidence("export")[0]["agreement"] == 1.0


def test_text_labels_stay_text_and_become_the_labels(exported):
    package = exported(
        fitted('LogisticRegression(solver="newton-cholesky")', targets="np.array(list('abc'))[y]")
    )

    assert package.manifest.labels == ("a", "b", "c")
    assert package.manifest.outputs[0].datatype == "BYTES"


def test_a_classifier_without_probabilities_answers_scores(exported):
    package = exported(fitted("make_pipeline(StandardScaler(), LinearSVC())", "load_breast_cancer"))

    assert [spec.name for spec in package.manifest.outputs] == ["label", "scores"]
    assert package.evidence("export")[0]["changed"] == 0.0


def test_a_regressor_answers_a_value(exported):
    package = exported(fitted("GradientBoostingRegressor(n_estimators=20)", "load_diabetes"))

    assert [spec.name for spec in package.manifest.outputs] == ["prediction"]
    assert package.manifest.labels == ()
    assert package.manifest.processing.output == ValuesOutput(tensor="prediction")


def test_a_transformer_answers_features(exported):
    package = exported(fitted("make_pipeline(StandardScaler(), PCA(2))"))

    assert [(spec.name, spec.shape[1]) for spec in package.manifest.outputs] == [("features", 2)]


def test_a_scaler_before_trees_leaves_rows_on_splits_to_float32_and_says_how_many(exported):
    """Histogram thresholds are data values: scaled in float32, such a row falls to either side."""
    from threadpoolctl import threadpool_limits

    text = fitted(
        "make_pipeline(StandardScaler(), HistGradientBoostingClassifier("
        "max_iter=30, random_state=0))",
        "load_breast_cancer",
    )
    with threadpool_limits(1):  # its threads spin, and others need the cores
        package = exported(text)
    facts = package.evidence("export")[0]

    assert facts["on_edge"] > 0
    assert facts["deviating"] == 0.0
    assert facts["changed"] <= 0.01


def test_rows_next_to_a_trees_split_are_answered_alike(exported):
    package = exported(fitted("GradientBoostingClassifier(n_estimators=5, random_state=0)"))
    module = _module(package)
    model = module.model()
    rows = np.repeat(module.X[:1].astype(np.float32), 400, axis=0)
    place = 0
    for tree in model.estimators_.ravel():
        for feature, threshold in zip(tree.tree_.feature, tree.tree_.threshold, strict=True):
            if feature >= 0:
                for side in (-np.inf, np.inf):
                    rows[place, feature] = np.nextafter(np.float32(threshold), np.float32(side))
                    place += 1
    rows = rows[:place]
    engine = package.engine()
    try:
        found = engine.run({"input": rows})
    finally:
        engine.close()

    assert place > 20
    assert np.mean(found["label"] == model.predict(rows)) > 0.99


def _module(package):
    from mlserve_cli.package.definition import Definition

    return Definition.load(package.source / "definition.py").module


def test_texts_are_one_input_and_need_no_locale(exported):
    package = exported(
        f"""{HEAD}
TEXTS = ["the cat sat", "a dog ran off", "cats and dogs", "a bird in the hand", "two birds"] * 4
def model():
    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, [0, 1, 0, 1, 1] * 4)
def sample():
    return TEXTS
"""
    )
    raw = package.model.read_bytes()

    assert [(spec.name, spec.datatype, spec.shape) for spec in package.manifest.inputs] == [
        ("text", "BYTES", ("batch",))
    ]
    assert b"en_US" not in raw
    assert package.evidence("export")[0]["relative_error"] < 1e-5


def test_a_converter_that_computes_something_else_is_found_out_and_refused(exported):
    """skl2onnx's sublinear term frequencies differ from scikit-learn's where a word repeats."""
    with pytest.raises(StepError, match="differs from its source: output 'probabilities'"):
        exported(
            f"""{HEAD}
TEXTS = ["go go go home", "stay stay here", "go away", "stay here", "home sweet home home"] * 4
def model():
    pipeline = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=100))
    return pipeline.fit(TEXTS, [0, 1, 0, 1, 1] * 4)
def sample():
    return TEXTS
"""
        )


def test_a_sample_of_columns_makes_an_input_of_each_in_its_own_type(exported):
    package = exported(
        f"""{HEAD}
CITY = np.array(["Rome", "Oslo", "Rome", "Bern", "Oslo", "Bern"] * 5, dtype=object)
AGE = np.arange(30.0)
def model():
    columns = ColumnTransformer([("city", OneHotEncoder(), [0]), ("age", StandardScaler(), [1])])
    rows = np.array(list(zip(CITY, AGE)), dtype=object)
    return make_pipeline(columns, LogisticRegression()).fit(rows, AGE > 14)
def sample():
    return {{"city": CITY, "age": AGE}}
"""
    )

    assert [(spec.name, spec.datatype, spec.shape) for spec in package.manifest.inputs] == [
        ("city", "BYTES", ("batch", 1)),
        ("age", "FP32", ("batch", 1)),
    ]
    assert package.evidence("export")[0]["agreement"] == 1.0


COUNTS = """
from sklearn.ensemble import RandomForestRegressor
RANDOM = np.random.default_rng(2)
AREA = RANDOM.uniform(20, 150, 300)
ROOMS = RANDOM.integers(1, 6, 300)
def model():
    rows = np.stack([AREA, ROOMS], axis=1)
    forest = RandomForestRegressor(10, random_state=0)
    return make_pipeline({first}, forest).fit(rows, AREA * 12 + ROOMS * 50)
def sample():
    return {{"area": AREA[:32], "rooms": ROOMS[:32]}}
"""


def test_whole_numbers_that_a_scaler_puts_on_a_split_are_float_noise(exported):
    """A split between 1 and 5 rooms lies at 3, and whoever has 3 falls to either side of it."""
    package = exported(HEAD + COUNTS.format(first="StandardScaler()"))
    facts = package.evidence("export")[0]

    assert package.manifest.inputs[1].datatype == "INT64"
    assert facts["on_edge"] > 0
    assert facts["deviating"] == 0.0


def test_whole_numbers_that_are_categories_are_never_moved(exported):
    """An encoder refuses what it was not fitted on, 3.000003 rooms for one."""
    first = "ColumnTransformer([('r', OneHotEncoder(), [1])], remainder='passthrough')"
    package = exported(HEAD + COUNTS.format(first=first))

    assert package.evidence("export")[0]["deviating"] == 0.0


def test_an_estimator_that_is_not_fitted_is_refused(exported):
    with pytest.raises(DefinitionError, match="returns a LogisticRegression that is not fitted"):
        exported(f"{HEAD}\ndef model(): return LogisticRegression()\ndef sample(): return [[1.0]]")


def test_an_estimator_that_cannot_be_converted_is_refused_by_its_name(exported):
    with pytest.raises(StepError, match="skl2onnx cannot convert this MeanShift"):
        exported(fitted("MeanShift()"))


def test_labels_of_scores_that_tie_are_no_changed_decisions(exported):
    """Twenty trees vote ten to ten now and then; a sum in float32 breaks the tie otherwise."""
    package = exported(fitted("RandomForestClassifier(20, random_state=0)", "load_breast_cancer"))

    assert package.evidence("export")[0]["changed"] == 0.0


def test_scores_that_the_converter_turns_around_are_left_out(exported):
    package = exported(fitted("SVC()", "load_breast_cancer"))

    assert [spec.name for spec in package.manifest.outputs] == ["label"]
    assert package.evidence("export")[0]["agreement"] == 1.0


def test_a_cluster_and_an_outlier_are_predictions(exported):
    for estimator in ("KMeans(3, random_state=0)", "IsolationForest(n_estimators=10)"):
        package = exported(fitted(estimator))

        assert [spec.name for spec in package.manifest.outputs] == ["prediction"]


def test_a_sample_that_the_estimator_rejects_is_one_sentence(exported):
    text = fitted('LogisticRegression(solver="newton-cholesky")').replace("X[::3]", "X[::3, :5]")

    with pytest.raises(StepError) as told:
        exported(text)

    assert re.search("5", told.value.message)
    assert "\n" not in told.value.message


def test_protobuf_7_is_refused_with_the_line_that_mends_it(exported, monkeypatch):
    import importlib.metadata

    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "7.36.0" if name == "protobuf" else real(name)
    )

    with pytest.raises(StepError, match=r"protobuf 7\.36\.0 is installed") as told:
        exported(fitted('LogisticRegression(solver="newton-cholesky")'))

    assert told.value.hint == "pip install 'protobuf<7'"
