"""Pipelines on data frames → a package that takes rows by the names of their columns."""

import numpy as np
import pytest

from mlserve_cli.errors import DefinitionError
from mlserve_cli.runtime.processing import build

pytest.importorskip("pandas")

HEAD = """
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import *

RANDOM = np.random.default_rng(0)
X = pd.DataFrame({
    "note": RANDOM.choice(["late again", "paid in full", "asked for time", "no answer"], 80),
    "city": RANDOM.choice(["Rome", "Oslo", "Bern"], 80),
    "age": RANDOM.integers(18, 80, 80),
    "income": np.where(RANDOM.random(80) < 0.1, np.nan, RANDOM.normal(40.0, 9.0, 80).round(1)),
    "owner": RANDOM.random(80) < 0.5,
})
y = np.where(X["note"].str.contains("paid") | (X["age"] > 60), "good", "bad")
NUMBERS = make_pipeline(SimpleImputer(), StandardScaler())
def sample():
    return X
"""

PIPELINE = """
def model():
    columns = ColumnTransformer([
        ("note", {vectorizer}(), "note"),
        ("city", {encoder}, ["city"]),
        ("age", "passthrough", ["age"]),
        ("income", NUMBERS, ["income"]),
        ("owner", "passthrough", ["owner"]),
    ])
    return make_pipeline(columns, {last}).fit(X, y)
"""


@pytest.mark.parametrize("vectorizer", ["TfidfVectorizer", "CountVectorizer"])
@pytest.mark.parametrize("encoder", ["OneHotEncoder(handle_unknown='ignore')", "OrdinalEncoder()"])
def test_text_categories_and_numbers_are_an_input_each_and_rows_come_by_name(
    exported, vectorizer, encoder
):
    last = "LogisticRegression(max_iter=2000)"
    package = exported(HEAD + PIPELINE.format(vectorizer=vectorizer, encoder=encoder, last=last))
    manifest = package.manifest
    columns = manifest.processing.input.columns

    assert [(spec.name, spec.datatype) for spec in manifest.inputs] == [
        ("note", "BYTES"),
        ("city", "BYTES"),
        ("age", "INT64"),
        ("income", "FP32"),
        ("owner", "BOOL"),
    ]
    assert [(column.name, column.type, column.nullable) for column in columns] == [
        ("note", "string", False),
        ("city", "string", False),
        ("age", "integer", False),
        ("income", "number", True),
        ("owner", "boolean", False),
    ]
    assert manifest.labels == ("bad", "good")
    assert package.evidence("export")[0]["changed"] == 0.0
    processor = build(manifest, package.serve)
    row = {"note": "paid in full", "city": "Oslo", "age": 33, "income": None, "owner": True}
    engine = package.engine()
    try:
        found = engine.run(processor.tensors([row]))
    finally:
        engine.close()
    assert found["label"].tolist() == [b"good"]


def test_a_frame_of_numbers_alone_is_one_matrix_with_named_columns(exported):
    package = exported(
        HEAD
        + """
NUMBERS_ONLY = X[["age", "income", "owner"]].fillna(0)
def model():
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(NUMBERS_ONLY, y)
def sample():
    return NUMBERS_ONLY
"""
    )
    table = package.manifest.processing.input

    assert [spec.name for spec in package.manifest.inputs] == ["input"]
    assert table.tensor == "input"
    assert [(column.name, column.type) for column in table.columns] == [
        ("age", "integer"),
        ("income", "number"),
        ("owner", "boolean"),
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("X.drop(columns='city')", "has no column 'city', which the model was fitted on"),
        ("X.assign(more=1)", "column 'more' of sample\\(\\) is none that the model was fitted on"),
        ("X.assign(owner=pd.array([None] + [True] * 79))", "true, false and missing values"),
        ("X.assign(age=pd.Timestamp('2020'))", "column 'age' of sample\\(\\) holds Timestamp"),
    ],
)
def test_a_sample_whose_columns_do_not_fit_is_refused_by_the_name_of_the_column(
    exported, change, sentence
):
    pipeline = PIPELINE.format(
        vectorizer="TfidfVectorizer", encoder="OneHotEncoder()", last="LogisticRegression()"
    )
    with pytest.raises(DefinitionError, match=sentence):
        exported(f"{HEAD}{pipeline}\ndef sample():\n    return {change}\n")


def test_a_random_forest_behind_the_columns_is_compared_beside_its_splits(exported):
    package = exported(
        HEAD
        + PIPELINE.format(
            vectorizer="CountVectorizer",
            encoder="OneHotEncoder()",
            last="RandomForestClassifier(5, random_state=0)",
        )
    )
    edges = package.evidence("export")[0]["edges"]

    assert edges["splits"] > 0
    assert not edges["exact"]
    assert edges["deviating"] <= 0.01


def test_a_frame_gives_arrays_with_nan_and_empty_text_for_what_is_missing():
    import pandas as pd

    from mlserve_cli.package.frame import arrays

    frame = pd.DataFrame(
        {
            "count": pd.array([1, None], dtype="Int64"),
            "word": ["a", None],
            "kind": pd.Categorical(["x", None]),
            "level": pd.Categorical([3, 1]),
        }
    )
    found = arrays(frame, what="rows")

    np.testing.assert_array_equal(found["count"], [[1.0], [np.nan]])
    assert found["word"].tolist() == [[b"a"], [b""]]
    assert found["kind"].tolist() == [[b"x"], [b""]]
    assert found["level"].dtype == np.int64
