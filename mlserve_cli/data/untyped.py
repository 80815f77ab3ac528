"""Rows of a file before there is a model with a signature: columns as the file itself has them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.data import csv, json_list, jsonl, targets
from mlserve_cli.data.processed import Cell
from mlserve_cli.data.reading import Source
from mlserve_cli.errors import DataError
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.frame import is_frame
from mlserve_cli.runtime.tensors import Array

WHAT = ".csv, .json, .jsonl, .npz or file.py:function"


def read(spec: str, limit: int) -> Any:
    """Up to `limit` rows: a dict of columns, a matrix, or what the user's function yields first.

    Targets of a usual name are left out. An empty cell, null and "nan" are NaN among numbers.
    Raises `DataError` where the file cannot be read.
    """
    file, separator, function = spec.rpartition(":")
    if separator and file.endswith(".py"):
        return _first(Definition.load(Path(file)), function)
    path = Path(spec)
    if not path.is_file():
        raise DataError(f"'{spec}' does not exist.", hint=f"rows are {WHAT}")
    if path.suffix == ".npz":
        return _npz(path, limit)
    readers = {
        ".csv": csv.stream,
        ".json": json_list.stream,
        ".jsonl": jsonl.stream,
        ".ndjson": jsonl.stream,
    }
    if path.suffix not in readers:
        raise DataError(f"'{spec}' is of no kind that can be read.", hint=f"rows are {WHAT}")
    rows = [row.value for row in itertools.islice(readers[path.suffix](Source(path)), limit)]
    if not rows:
        raise DataError(f"'{spec}' holds no rows.")
    if not isinstance(rows[0], dict):
        return np.asarray(rows)
    target = targets.find(rows[0], None, where=f"'{spec}'")
    return {
        name: _column([row.get(name) for row in rows], f"the column '{name}' of '{spec}'")
        for name in rows[0]
        if name != target
    }


def _column(values: list[Any], where: str) -> Array:
    """Numbers (int64, or float64 with NaN for what is missing), true and false, or text."""
    cells = [_value(each) if isinstance(each, Cell) else each for each in values]
    kinds = {type(each) for each in cells if each is not None}
    if kinds <= {bool} and kinds and None not in cells:
        return np.array(cells, bool)
    if kinds <= {int} and kinds and None not in cells:
        return np.array(cells, np.int64)
    if kinds <= {int, float}:
        return np.array([np.nan if each is None else each for each in cells], np.float64)
    if all(isinstance(each, (str, type(None))) for each in values):
        text = np.empty(len(values), np.object_)
        text[:] = ["" if each is None else str(each) for each in values]
        return text
    names = ", ".join(sorted(each.__name__ for each in kinds))
    raise DataError(f"{where} holds {names}.", hint="a column holds numbers, text, or true/false")


def _value(cell: Cell) -> Any:
    word = cell.strip()
    if word == "":
        return None
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return str(cell)


def _npz(path: Path, limit: int) -> Any:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name][:limit] for name in file.files if name not in targets.NAMES}
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' cannot be read: {error}.") from error
    if not found:
        raise DataError(f"'{path}' holds no arrays.")
    return next(iter(found.values())) if len(found) == 1 else found


def _first(definition: Definition, function: str) -> Any:
    batches: Iterator[Any] = definition.batches(function)
    first = next(batches, None)
    if first is None:
        raise DataError(f"{function}() of '{definition.path}' yields no rows.")
    if isinstance(first, (tuple, list)) and len(first) == 2 and not is_frame(first):
        return first[0]  # (inputs, targets), as evaluation() yields them
    return first
