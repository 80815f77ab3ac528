"""What a model's inputs and outputs looked like when it was packaged, for drift to be seen later.

`serve/statistics.json` holds, a tensor: rows, mean, standard deviation, minimum, maximum, the
share of NaN, and eleven quantiles; a column each where a tensor is (batch, n) with n ≤ 256. Text
and whole-number outputs with few values hold the share of each value.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.runtime.tensors import Array, Tensors

FILE = "statistics.json"
_QUANTILES = np.linspace(0.0, 1.0, 11)
_COLUMNS = 256  # wider tensors are summed up as a whole, or the file outgrows the model
_VALUES = 64  # more different values than this are no categories


def write(folder: Path, inputs: Tensors, outputs: Tensors) -> None:
    """Write `folder/statistics.json` for these rows."""
    facts = {
        "inputs": {name: describe(array) for name, array in inputs.items()},
        "outputs": {name: describe(array) for name, array in outputs.items()},
    }
    (folder / FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def describe(array: Array) -> dict[str, Any]:
    """The figures of one tensor of shape (batch, …)."""
    facts: dict[str, Any] = {"rows": int(array.shape[0]) if array.ndim else 1}
    if array.dtype.kind == "O":
        lengths = np.array([len(item) for item in array.flat], dtype=np.float64)
        return facts | {"bytes": _summary(lengths)} | _shares(array)
    if array.dtype.kind in "iub":
        facts |= _shares(array)
    if array.ndim == 2 and 1 < array.shape[1] <= _COLUMNS:
        return facts | {"columns": [_summary(column) for column in array.T]}
    return facts | _summary(array)


def _summary(array: Array) -> dict[str, Any]:
    values = np.asarray(array, dtype=np.float64).ravel()
    finite = values[np.isfinite(values)]
    missing = _rounded(1.0 - finite.size / max(values.size, 1))
    if not finite.size:
        return {"missing": missing}
    with np.errstate(over="ignore", invalid="ignore"):  # near the largest float64
        figures = {
            "mean": finite.mean(),
            "std": finite.std(),
            "min": finite.min(),
            "max": finite.max(),
        }
        quantiles = np.quantile(finite, _QUANTILES)
    return {
        "missing": missing,
        # JSON has no infinity: a figure that overflowed is left out.
        **{name: _rounded(value) for name, value in figures.items() if np.isfinite(value)},
        "quantiles": [_rounded(value) for value in quantiles if np.isfinite(value)],
    }


def _shares(array: Array) -> dict[str, Any]:
    values, counts = np.unique(array.ravel(), return_counts=True)
    if len(values) > _VALUES:
        return {}
    names = [
        item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in values
    ]
    return {
        "shares": {
            name: _rounded(count / array.size) for name, count in zip(names, counts, strict=True)
        }
    }


def _rounded(value: float) -> float:
    # Six digits are enough to see drift; more would differ with the order of summation.
    return float(f"{float(value):.6g}")
