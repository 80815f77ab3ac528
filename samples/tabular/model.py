"""Is a breast tumour malignant? A scaler and gradient boosting, on real measurements.

The data come with scikit-learn: 569 tumours, each with 30 measures of its cell nuclei (Wisconsin
Diagnostic Breast Cancer; Street, Wolberg and Mangasarian, 1993). A third is held out.
"""

from functools import cache

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

NAME = "tumours"
DESCRIPTION = "Malignant or benign, from 30 measures of a tumour's cell nuclei"
LICENCE = "Apache-2.0"
LABELS = ["malignant", "benign"]  # in the order of the estimator's classes_, 0 and 1
METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}
COLUMNS = [name.replace(" ", "_") for name in load_breast_cancer().feature_names]
PROCESSING = {
    "input": {
        "kind": "table",
        "tensor": "measures",
        "columns": [{"name": name, "type": "number"} for name in COLUMNS],
    },
    "output": {"kind": "classes", "tensor": "probabilities", "top_k": 2},
}


@cache
def splits() -> list[np.ndarray]:
    """Training rows, held-out rows, their classes in the same order."""
    rows, classes = load_breast_cancer(return_X_y=True)
    return train_test_split(rows, classes, test_size=1 / 3, stratify=classes, random_state=0)


@cache
def model() -> Pipeline:
    rows, _, classes, _ = splits()
    pipeline = make_pipeline(StandardScaler(), GradientBoostingClassifier(random_state=0))
    return pipeline.fit(rows, classes)


def student() -> Pipeline:
    """Fifty splits in place of seven hundred, for `mlserve distill`."""
    small = GradientBoostingClassifier(n_estimators=25, max_depth=2, learning_rate=0.2)
    return make_pipeline(StandardScaler(), small)


def training():
    rows, _, classes, _ = splits()
    yield rows, classes


def sample() -> np.ndarray:
    return splits()[0][:64]


def calibration():
    yield splits()[0]


def evaluation():
    _, rows, _, classes = splits()
    yield rows, classes
