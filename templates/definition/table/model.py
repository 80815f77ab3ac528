"""A model definition for tables: plain functions and constants that mlserve finds by name.

It works as it is: a linear model of the 569 real tumours that come with scikit-learn. Replace
the parts with your own. Only model() and sample() are needed for an export; every other part says
below what it is for, and may be left out.
"""

from functools import cache

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

# What the package says of itself. NAME stands in URLs; without it, the folder's name is taken.
NAME = "tumours"
VERSION = "1"
DESCRIPTION = "Malignant or benign, from 30 measures of cell nuclei"
LICENCE = "Apache-2.0"

# One label a class, in the order of the estimator's classes_. Without it, classes_ itself is taken.
LABELS = ["malignant", "benign"]

# How a request's JSON or CSV rows become the input "input", and what the answer is made of. A
# column without a "default" is required; its type can be number, integer, string or boolean.
# With sample() as a dict, each column is an input of its own: {"name": "age", "tensor": "age"}.
COLUMNS = [name.replace(" ", "_") for name in load_breast_cancer().feature_names]
PROCESSING = {
    "input": {
        "kind": "table",
        "tensor": "input",
        "columns": [{"name": name, "type": "number"} for name in COLUMNS],
    },
    "output": {"kind": "classes", "tensor": "probabilities", "top_k": 2},
}

# What evaluate measures. In "points", 0.97 is 97. For a regressor: mae or rmse, and its unit.
METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}

# Files beside this one that it needs; they travel with the package.
# FILES = ["measures.csv"]


@cache
def model() -> Pipeline:
    """The fitted estimator or pipeline. Yours will rather load one than fit it here."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    return pipeline.fit(*split("train"))


def sample() -> np.ndarray:
    """A few real rows: the export is compared with the estimator's own predictions on them."""
    return split("train")[0][:32]


def calibration():
    """Batches of real rows, for statistics and a longer comparison. Optional: else sample()."""
    yield split("train")[0]


def evaluation():
    """Batches of (rows, targets) that the model was not fitted on. Optional."""
    yield split("test")


# def metric(outputs, targets):
#     """One value a row, or one number. Optional: METRIC["name"] may be accuracy, mae, rmse."""
#     return (outputs["label"] == targets).astype(float)


@cache
def split(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows (count, 30) and classes (count,): "train", or "test" (a third)."""
    rows, classes = load_breast_cancer(return_X_y=True)
    held_out = np.arange(len(rows)) % 3 == 0
    chosen = held_out if name == "test" else ~held_out
    return rows[chosen], classes[chosen]
