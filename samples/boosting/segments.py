"""Which of seven surfaces does a patch of a photograph show? XGBoost, on real measurements.

The data come with the package river: 2,310 patches of outdoor photographs, each with 18 measures of
its colours and lines (Image Segmentation; Vision Group, University of Massachusetts, 1990). A third
is held out.
"""

from functools import cache

import pandas as pd
from river.datasets import ImageSegments
from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

NAME = "segments"
DESCRIPTION = "The surface that a patch of a photograph shows, from 18 measures"
LABELS = ["brickface", "cement", "foliage", "grass", "path", "sky", "window"]
METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}


@cache
def splits() -> list:
    """Training rows, held-out rows, their classes in the same order."""
    patches, surfaces = zip(*ImageSegments(), strict=True)
    classes = pd.Series(surfaces).map(LABELS.index)
    rows = pd.DataFrame(patches)
    return train_test_split(rows, classes, test_size=1 / 3, stratify=classes, random_state=0)


@cache
def model() -> XGBClassifier:
    rows, _, classes, _ = splits()
    return XGBClassifier(n_estimators=60, max_depth=4, n_jobs=1).fit(rows, classes)


def sample() -> pd.DataFrame:
    return splits()[0][:64]


def calibration():
    yield splits()[0]


def evaluation():
    _, rows, _, classes = splits()
    yield rows, classes
