"""Rows for an estimator, as its author gives them: a matrix, texts, columns by name, a data frame.

an array of numbers      one input "input", (batch, columns) float32
an array of text         one input "text" of the same rank
a dict                   one input a column, (batch, 1), by its name
a data frame             the same; or one matrix, where all of it is numbers and no part of the
                         estimator chooses columns by name
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlserve_cli.errors import DefinitionError, needs_extra
from mlserve_cli.export import rows
from mlserve_cli.export.boosting import Traits
from mlserve_cli.graph.columns import MatrixColumn
from mlserve_cli.package.frame import arrays, is_frame
from mlserve_cli.runtime.processing.declaration import Column, TableInput
from mlserve_cli.runtime.tensors import Array, Tensors

_KINDS = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "O": "string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Real rows by input name, and what is known of their columns.

    names: of the columns in order; empty where they have none.
    kinds: column → "number", "integer", "boolean", "string".
    categories: column → its categories, in the order of their codes.
    matrix: the input that takes all columns; None where each has its own.
    frame: whether the estimator takes a data frame.
    """

    tensors: Tensors
    names: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    matrix: str | None = None
    frame: bool = False

    def read(self, value: Any, *, what: str) -> Tensors:
        """Other rows of the same kind. Raises `DefinitionError` where they are of another."""
        if is_frame(value):
            columns = arrays(value, what=what)
            for name in self.names:
                if name not in columns:
                    raise DefinitionError(
                        f"{what} has no column '{name}'.",
                        hint="the sample has " + ", ".join(self.names),
                    )
            columns = {name: columns[name] for name in self.names or columns}
            if self.matrix is not None:
                return {self.matrix: _joined(columns, what)}
            return columns
        tensors = rows.by_name(value, tuple(self.tensors), what=what)
        if self.names and self.matrix is None:
            return _columns(tensors, what)
        return tensors

    def given(self, batch: Tensors) -> Any:
        """The batch as the estimator takes it: a matrix, texts, or a data frame."""
        if self.frame:
            return self._frame(batch)
        if len(batch) == 1:
            (array,) = batch.values()
            return text(array) if array.dtype.kind == "O" else array
        return np.concatenate([text(array) for array in batch.values()], axis=1)

    def table(self, all_rows: Iterable[Tensors]) -> TableInput | None:
        """Declared processing that takes rows by column name; None without names.

        A column in which a number is missing in some real row may be null, and missing text is
        the empty string.
        """
        if not self.names:
            return None
        missing: set[str] = set()
        for batch in all_rows:
            for name, array in self._by_column(batch).items():
                absent = np.isnan(array) if array.dtype.kind == "f" else array == b""
                if array.dtype.kind in "fO" and absent.any():
                    missing.add(name)
        return TableInput(
            columns=tuple(
                Column(
                    name=name,
                    type=self.kinds[name],  # type: ignore[arg-type]
                    default="" if name in missing and self.kinds[name] == "string" else None,
                    tensor=name if self.matrix is None else None,
                    nullable=name in missing and self.kinds[name] in ("number", "integer"),
                )
                for name in self.names
            ),
            tensor=self.matrix,
        )

    def columns(self) -> list[MatrixColumn]:
        """What makes a matrix of the columns, for a model that takes one."""
        return [
            MatrixColumn(name, self.kinds[name], self.categories.get(name, ()))
            for name in self.names
        ]

    def _by_column(self, batch: Tensors) -> Tensors:
        if self.matrix is None:
            return batch
        array = batch[self.matrix]
        return {name: array[:, index] for index, name in enumerate(self.names)}

    def _frame(self, batch: Tensors) -> Any:
        with needs_extra("boosting", "give this estimator the data frame that it was fitted on"):
            import pandas as pd

        made = {}
        for name, array in self._by_column(batch).items():
            values = text(array).ravel()
            if name in self.categories:
                known = list(self.categories[name])
                allowed = set(known)
                values = pd.Categorical(
                    [each if each in allowed else None for each in values.tolist()],
                    categories=known,
                )
            made[name] = values
        return pd.DataFrame(made)


def read(
    value: Any,
    traits: Traits,
    *,
    tensor: str | None,
    by_column: bool,
    names: Sequence[str] = (),
    what: str = "sample()",
) -> Sample:
    """What `value` is a sample of.

    tensor: the name that processing has for the matrix. by_column: each column its own input.
    names: of the columns that the estimator was fitted on, for a matrix without names.
    Raises `DefinitionError` where it fits none of the forms above, or not the model.
    """
    names = traits.names or tuple(names)
    if is_frame(value):
        return _of_frame(value, traits, tensor=tensor, by_column=by_column, names=names, what=what)
    if isinstance(value, Mapping):
        given = rows.by_name(value, tuple(str(name) for name in value), what=what)
        tensors = _columns(_ordered(given, names, what), what)
        kinds = {name: _KINDS[array.dtype.kind] for name, array in tensors.items()}
        _check_categories(kinds, traits.categories, what)
        return Sample(
            tensors=tensors,
            names=tuple(tensors),
            kinds=kinds,
            categories=traits.categories,
            frame=bool(names),
        )
    array = rows.by_name(value, ("input",), what=what)["input"]
    if array.dtype.kind == "O":
        return Sample(tensors={tensor or "text": array})
    matrix = tensor or "input"
    if names and array.ndim == 2 and array.shape[1] != len(names):
        raise DefinitionError(
            f"{what} has {array.shape[1]} columns, and the model was fitted on {len(names)}: "
            f"{_listed(names)}."
        )
    if traits.categories:
        raise DefinitionError(
            f"the column '{next(iter(traits.categories))}' holds categories, and {what} is a "
            "matrix of numbers.",
            hint="give a data frame, or a dict with each column by its name",
        )
    return Sample(
        tensors={matrix: array},
        names=tuple(names),
        kinds=dict.fromkeys(names, "number"),
        matrix=matrix,
        frame=bool(names) and _has_pandas(),
    )


def _of_frame(
    frame: Any,
    traits: Traits,
    *,
    tensor: str | None,
    by_column: bool,
    names: Sequence[str],
    what: str,
) -> Sample:
    columns = _ordered(arrays(frame, what=what), names, what)
    kinds = {name: _KINDS[array.dtype.kind] for name, array in columns.items()}
    categories = {
        str(name): list(frame[name].cat.categories)
        for name in frame.columns
        if str(frame[name].dtype) == "category"
    } | dict(traits.categories)
    categories = {name: known for name, known in categories.items() if name in columns}
    common: dict[str, Any] = {
        "names": tuple(columns),
        "kinds": kinds,
        "categories": categories,
        "frame": True,
    }
    if by_column or categories or "string" in kinds.values():
        return Sample(tensors=columns, **common)
    matrix = tensor or "input"
    return Sample(tensors={matrix: _joined(columns, what)}, matrix=matrix, **common)


def text(array: Array) -> Array:
    """`BYTES` as Python's text; numbers as they are."""
    if array.dtype.kind != "O":
        return array
    flat = np.empty(array.size, dtype=np.object_)
    flat[:] = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
    return flat.reshape(array.shape)


def _ordered(given: Tensors, names: Sequence[str], what: str) -> Tensors:
    """The columns in the model's order. Raises `DefinitionError` for one too few or too many."""
    if not names:
        return given
    for name in names:
        if name not in given:
            raise DefinitionError(
                f"{what} has no column '{name}', which the model was fitted on.",
                hint="it has " + _listed(list(given)),
            )
    for name in given:
        if name not in names:
            raise DefinitionError(
                f"the column '{name}' of {what} is none that the model was fitted on.",
                hint="they are " + _listed(names),
            )
    return {name: given[name] for name in names}


def _columns(tensors: Tensors, what: str) -> Tensors:
    columns = {}
    for name, array in tensors.items():
        columns[name] = array.reshape(-1, 1) if array.ndim == 1 else array
        if columns[name].shape[1:] != (1,):
            raise DefinitionError(
                f"{what} gives '{name}' the shape {array.shape}, and a column is (rows, 1)."
            )
    return columns


def _check_categories(
    kinds: Mapping[str, str], categories: Mapping[str, Sequence[Any]], what: str
) -> None:
    for name, known in categories.items():
        wanted = isinstance(known[0], str) if len(known) else False
        if wanted != (kinds.get(name) == "string"):
            raise DefinitionError(
                f"the column '{name}' of {what} is {kinds.get(name)}, and its categories are "
                f"{_listed([str(each) for each in known])}."
            )


def _joined(columns: Tensors, what: str) -> Array:
    for name, array in columns.items():
        if array.dtype.kind == "O":
            raise DefinitionError(f"the column '{name}' of {what} is text, and was a number.")
    return np.concatenate([array.astype(np.float64) for array in columns.values()], axis=1)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def _has_pandas() -> bool:
    import importlib.util

    return importlib.util.find_spec("pandas") is not None
