"""A pandas data frame → arrays by column name."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve_cli.errors import DefinitionError
from mlserve_cli.runtime.tensors import Array


def is_frame(value: Any) -> bool:
    """Whether it is a pandas DataFrame, without importing pandas."""
    kind = type(value)
    return kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas"


def arrays(frame: Any, *, what: str) -> dict[str, Array]:
    """Each column as (rows, 1): numbers, bool, or text as `BYTES`.

    Missing numbers are NaN, also in a column of whole numbers, which becomes one of floats; missing
    text is empty. Raises `DefinitionError` naming a column of another kind.
    """
    found = {}
    for name in frame.columns:
        array = _array(frame[name], f"the column '{name}' of {what}")
        found[str(name)] = array.reshape(-1, 1)
    return found


def _array(series: Any, where: str) -> Array:
    missing: Array = series.isna().to_numpy()
    if str(series.dtype) == "category":
        series = series.astype(series.cat.categories.dtype if not missing.any() else object)
    values: Array = series.to_numpy(dtype=object)
    kinds = {type(value) for value, absent in zip(values, missing, strict=True) if not absent}
    if kinds and all(issubclass(each, str) for each in kinds):
        text = np.empty(len(values), np.object_)
        text[:] = [
            b"" if absent else str(value).encode()
            for value, absent in zip(values, missing, strict=True)
        ]
        return text
    if kinds and all(issubclass(each, (bool, np.bool_)) for each in kinds):
        if missing.any():
            raise DefinitionError(
                f"{where} has true, false and missing values.",
                hint="make numbers of it: 1, 0 and NaN",
            )
        return values.astype(bool)
    if all(issubclass(each, (int, float, np.integer, np.floating, bool)) for each in kinds):
        whole = kinds and all(issubclass(each, (int, np.integer)) for each in kinds)
        if whole and not missing.any():
            return values.astype(np.int64)
        return np.array(
            [
                np.nan if absent else float(value)
                for value, absent in zip(values, missing, strict=True)
            ],
            np.float64,
        )
    names = ", ".join(sorted(each.__name__ for each in kinds))
    raise DefinitionError(
        f"{where} holds {names} (dtype {series.dtype}).",
        hint="a column holds numbers, text, or true and false",
    )
