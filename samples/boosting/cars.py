"""How far does a car of the 1970s go on a gallon? LightGBM, with categories and missing values.

The data come with the package vega_datasets: 398 cars with their weight, power, origin and so on
(Auto MPG; Donoho and Ramos, 1983). The power of six is not known. A third is held out.
"""

import json
from functools import cache
from pathlib import Path

import pandas as pd
from lightgbm import LGBMRegressor
from sklearn.model_selection import train_test_split
from vega_datasets import data

NAME = "cars"
DESCRIPTION = "Miles a gallon of a car of the 1970s"
METRIC = {"name": "absolute error", "higher_is_better": False, "unit": "miles a gallon"}
COLUMNS = ["Cylinders", "Displacement", "Horsepower", "Weight_in_lbs", "Acceleration", "Origin"]


@cache
def splits() -> list:
    """Training rows, held-out rows, their miles a gallon in the same order."""
    cars = pd.DataFrame(json.loads(Path(data.cars.filepath).read_text(encoding="utf-8")))
    cars = cars.dropna(subset=["Miles_per_Gallon"])
    rows = cars[COLUMNS].astype({"Origin": "category"})
    return train_test_split(rows, cars["Miles_per_Gallon"], test_size=1 / 3, random_state=0)


@cache
def model() -> LGBMRegressor:
    rows, _, miles, _ = splits()
    options = {"n_estimators": 60, "num_leaves": 8, "min_child_samples": 5}
    return LGBMRegressor(**options, n_jobs=1, verbose=-1).fit(rows, miles)


def sample() -> pd.DataFrame:
    return splits()[0][:64]


def calibration():
    yield splits()[0]


def evaluation():
    _, rows, _, miles = splits()
    yield rows, miles.to_numpy().reshape(-1, 1)


def metric(outputs, targets):
    return abs(outputs - targets).ravel()
