"""Rows that nobody measured, near those that somebody did, for a teacher to answer.

MUNGE (Bucilă, Caruana and Niculescu-Mizil, "Model compression", 2006): a row and its nearest
neighbour trade values, each with one chance in two; a value that is no whole number is drawn
around the neighbour's, as far from it as the two are apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import StepError
from mlserve_cli.package.frame import is_frame
from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    from mlserve_cli.distill.estimator import Rows

TRADED = 0.5
"""The chance that a value is the neighbour's."""


def with_made_up(given: Rows, times: int, *, seed: int) -> Rows:
    """The rows, and `times` as many made up behind them.

    Raises `StepError` for rows that are no table of numbers.
    """
    from mlserve_cli.distill.estimator import Rows

    value = given.value
    matrix = np.asarray(value)
    if isinstance(value, dict) or matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise StepError(
            "rows can be made up for tables of numbers alone.", hint="leave --augment out"
        )
    made = [made_up(matrix, seed=seed + index) for index in range(times)]
    whole = np.concatenate([matrix.astype(np.float64), *made])
    tensors = {
        name: _grown(array, whole) if len(given.tensors) == 1 else _column(array, whole, at)
        for at, (name, array) in enumerate(given.tensors.items())
    }
    if not is_frame(value):
        return Rows(whole.astype(matrix.dtype), tensors)
    frame: Any = type(value)(whole, columns=value.columns)
    return Rows(frame.astype(dict(value.dtypes)), tensors)


def made_up(matrix: Array, *, seed: int) -> Array:
    """One row near each row of `matrix`, (rows, columns) float64."""
    from sklearn.neighbors import NearestNeighbors

    values = matrix.astype(np.float64)
    spread = values.std(axis=0)
    scaled = np.nan_to_num(values / np.where(spread > 0, spread, 1))
    near = NearestNeighbors(n_neighbors=min(2, len(values))).fit(scaled)
    neighbour = values[near.kneighbors(scaled, return_distance=False)[:, -1]]
    generator = np.random.default_rng(seed)
    drawn = generator.normal(neighbour, np.nan_to_num(np.abs(values - neighbour)))
    whole = (values == np.round(values)).all(axis=0)
    drawn = np.where(whole, neighbour, drawn)
    made: Array = np.where(generator.random(values.shape) < TRADED, drawn, values)
    return made


def _grown(array: Array, whole: Array) -> Array:
    return whole.reshape(len(whole), *array.shape[1:]).astype(array.dtype)


def _column(array: Array, whole: Array, at: int) -> Array:
    return whole[:, at].reshape(len(whole), *array.shape[1:]).astype(array.dtype)
