"""Where was a car built? A scikit-learn pipeline of text, categories and numbers.

The cars of cars.py, told by the words of their names, the year and four measures; the power of six
is not known. A third is held out.
"""

import json
from functools import cache
from pathlib import Path

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from vega_datasets import data

NAME = "makers"
DESCRIPTION = "Where a car of the 1970s was built, from its name and measures"
LABELS = ["Europe", "Japan", "USA"]  # in the order of the estimator's classes_
METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}
NUMBERS = ["Displacement", "Horsepower", "Weight_in_lbs", "Acceleration"]


@cache
def splits() -> list:
    """Training rows, held-out rows, where they were built in the same order."""
    cars = pd.DataFrame(json.loads(Path(data.cars.filepath).read_text(encoding="utf-8")))
    cars["Year"] = cars["Year"].str[:4]
    cars["Weight_in_lbs"] = cars["Weight_in_lbs"].astype(float)
    rows = cars[["Name", "Year", *NUMBERS]]
    return train_test_split(rows, cars["Origin"], test_size=1 / 3, random_state=0)


@cache
def model() -> Pipeline:
    rows, _, origins, _ = splits()
    columns = ColumnTransformer(
        [
            ("name", TfidfVectorizer(), "Name"),
            ("year", OneHotEncoder(handle_unknown="ignore"), ["Year"]),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS),
        ]
    )
    return make_pipeline(columns, LogisticRegression(C=10)).fit(rows, origins)


def sample() -> pd.DataFrame:
    return splits()[0][:64]


def calibration():
    yield splits()[0]


def evaluation():
    _, rows, _, origins = splits()
    yield rows, origins
