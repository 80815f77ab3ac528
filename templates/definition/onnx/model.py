"""A model definition around a ready ONNX file: constants and functions that mlserve finds by name.

It works as it is: model.onnx tells a wine's cultivar from its chemistry, a scaler and a softmax
regression fitted with scikit-learn on two of every three rows of wine.csv (178 wines; Aeberhard
and Forina, 1992, UCI, CC BY 4.0). Replace both files with your own. A bare file can be exported
without a definition too; this one adds real rows, names for columns and classes, and a metric.
Only model() is needed; every other part says below what it is for, and may be left out.
"""

import csv
from functools import cache
from pathlib import Path

import numpy as np

# What the package says of itself. NAME stands in URLs; without it, the folder's name is taken.
NAME = "wine"
VERSION = "1"
DESCRIPTION = "A wine's cultivar, from 13 measures of its chemistry"
LICENCE = "CC-BY-4.0"

# Files beside this one that it needs; they travel with the package.
FILES = ["wine.csv"]
DATA = Path(__file__).with_name("wine.csv")

# One label a class, in the order of the output's columns. Answers are given in these words.
LABELS = ["first", "second", "third"]

# How a request becomes the model's inputs, and its output an answer; the tensors' names are those
# in the file ("mlserve inspect" shows them). Pictures: {"kind": "image", "tensor": …, "width": …,
# "height": …, "mean": […], "std": […]}. Anything else: {"python": {"file": "processing.py"}}.
with DATA.open(newline="") as file:
    COLUMNS = next(csv.reader(file))[:-1]
PROCESSING = {
    "input": {
        "kind": "table",
        "tensor": "measures",
        "columns": [{"name": name, "type": "number"} for name in COLUMNS],
    },
    "output": {"kind": "classes", "tensor": "probabilities"},
}

# What evaluate and quantize measure. In "points", 0.97 is 97.
METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}


def model() -> str:
    """The ONNX file, relative to this one."""
    return "model.onnx"


def sample() -> np.ndarray:
    """A few real inputs; several inputs are given as a dict by name. Without it and calibration(),
    the package is proven on made-up rows."""
    return split("train")[0][:32]


def calibration():
    """Batches of real inputs, for int8's ranges and for statistics. Optional: else sample()."""
    yield split("train")[0]


def evaluation():
    """Batches of (inputs, targets) that the model was not fitted on. Optional, but the gate of
    quantize needs it."""
    yield split("test")


# def metric(outputs, targets):
#     """One value a row, or one number. Optional: METRIC["name"] may be accuracy, mae, rmse."""
#     return (outputs["probabilities"].argmax(axis=1) == targets).astype(float)


@cache
def split(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows (count, 13) float32 and classes (count,): "train", or "test" (every third)."""
    table = np.loadtxt(DATA, delimiter=",", skiprows=1, dtype=np.float32)
    held_out = np.arange(len(table)) % 3 == 0
    chosen = table[held_out if name == "test" else ~held_out]
    return chosen[:, :-1], chosen[:, -1].astype(np.int64)
