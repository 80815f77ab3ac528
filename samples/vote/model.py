"""Is a breast tumour malignant? A scaler and a logistic regression: the vote's second member.

The same tumours as in samples/tabular, split in the same way: a third was never seen by either.
"""

from functools import cache

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

NAME = "tumours-linear"
DESCRIPTION = "Malignant or benign, by a weighted sum of 30 measures"
LICENCE = "Apache-2.0"
LABELS = ["malignant", "benign"]
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
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(rows, classes)


def sample() -> np.ndarray:
    return splits()[0][:64]


def calibration():
    yield splits()[0]


def evaluation():
    _, rows, _, classes = splits()
    yield rows, classes


def metric(outputs, targets):
    """The vote answers a second tensor, so its probabilities are named here."""
    if isinstance(outputs, dict):
        outputs = outputs["probabilities"]
    return outputs.argmax(axis=1) == targets
