"""Columns of a Parquet or Arrow file → tensors, a column at a time.

What is usual is converted as it lies in memory, without a Python value a cell. A block with
anything else in it takes the way of JSON and CSV, row by row: so the answers and the reasons are
the same, and only such blocks are slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.data.columns import ColumnRows
from mlserve_cli.data.fit import fit
from mlserve_cli.errors import DataError, needs_extra
from mlserve_cli.predict import layout, rows
from mlserve_cli.predict.blocks import Plan, Prepared
from mlserve_cli.runtime.processing.declaration import Column, ImageInput, TableInput, TextInput
from mlserve_cli.runtime.tensors import Array, Tensors, TensorSpec

if TYPE_CHECKING:
    import pyarrow as pa


class _Unusual(Exception):
    """A block has to be looked at row by row."""


class Columns:
    """How the columns of one schema become a package's inputs."""

    def __init__(self, schema: pa.Schema, plan: Plan, *, where: str) -> None:
        import pyarrow as pa

        types = {field.name: _value_type(field.type) for field in schema}
        if len(types) != len(schema.names):
            double = next(name for name in schema.names if schema.names.count(name) > 1)
            raise DataError(f"{where} has two columns '{double}'.")
        nested = [name for name, kind in types.items() if _is_list(kind)]
        self._layout = layout.find(schema.names, plan, where=where, nested=nested)
        self._plan = plan
        self._where = where
        used = list(types) if self._layout.whole else list(self._layout.columns.values())
        self.names = list(dict.fromkeys([*used, *plan.keep]))
        """The columns that have to be read."""
        self._declared: Mapping[str, Column] = {}
        declared = plan.manifest.processing.input
        if isinstance(declared, TableInput):
            self._declared = {column.name: column for column in declared.columns}
        self._fills = self._find_fills(declared)
        self._float_columns = self._check_types(types)
        self._pa = pa
        # What the types tell is found once: asking a block again costs as much as its conversion.
        self._coded = any(pa.types.is_dictionary(field.type) for field in schema)
        self._uniform = {
            spec.name: columns
            for spec, names in self._fills or ()
            if (columns := self._one_type(types, spec, names))
        }

    def prepare(self, batch: pa.RecordBatch) -> Prepared:
        """Rows of that schema → the model's inputs."""
        if self._coded:
            batch = _decoded(batch)
        count = batch.num_rows
        tensors = self.tensors(batch)
        if tensors is not None:
            prepared = Prepared([tensors], range(count))
        else:
            prepared = self._row_by_row(batch)
        if self._plan.keep:
            everything = len(prepared.rows) == count
            chosen = None if everything else self._pa.array(prepared.rows, self._pa.int64())
            prepared.kept = {
                name: batch.column(name) if chosen is None else batch.column(name).take(chosen)
                for name in self._plan.keep
            }
        return prepared

    def _find_fills(
        self, declared: Any
    ) -> list[tuple[TensorSpec, list[tuple[str, Column | None]]]] | None:
        """For each input the columns that go into it; None where rows go through the package."""
        manifest = self._plan.manifest
        if manifest.processing.python is not None or isinstance(declared, TextInput | ImageInput):
            return None
        columns = self._layout.columns
        if isinstance(declared, TableInput):
            wanted: dict[str, list[tuple[str, Column | None]]] = {}
            for column in declared.columns:
                if column.name not in columns:
                    return None  # a default stands in for the whole column
                tensor = column.tensor or declared.tensor or ""
                wanted.setdefault(tensor, []).append((columns[column.name], column))
            return [(spec, wanted[spec.name]) for spec in manifest.inputs]
        if self._layout.matrix:
            return [(manifest.inputs[0], [(column, None) for column in columns.values()])]
        return [(spec, [(columns[spec.name], None)]) for spec in manifest.inputs]

    def _check_types(self, types: Mapping[str, pa.DataType]) -> frozenset[str]:
        """Refuse columns that no row could be right in. Gives those where null is NaN."""
        import pyarrow.types as kinds

        declared = self._plan.manifest.processing.input
        if isinstance(declared, TextInput | ImageInput):
            (column,) = self._layout.columns.values()
            fits = _is_text if isinstance(declared, TextInput) else _is_picture
            if not fits(types[column]):
                what = "text" if isinstance(declared, TextInput) else "a picture's bytes"
                raise DataError(
                    f"the column '{column}' of {self._where} is {types[column]}, and it must hold "
                    f"{what}."
                )
            return frozenset()
        for name, column_declared in self._declared.items():
            source = self._layout.columns.get(name)
            if source is None or kinds.is_null(types[source]):
                continue
            if not _TABLE[column_declared.type](types[source]):
                raise DataError(
                    f"the column '{source}' of {self._where} is {types[source]}, and '{name}' must "
                    f"be {_MEANING[column_declared.type]}."
                )
        floats: set[str] = set()
        if self._declared or self._fills is None:
            return frozenset()
        for spec, columns in self._fills:
            for source, _ in columns:
                kind = _leaf(types[source])
                if not kinds.is_null(kind) and not _fits(kind, spec):
                    raise DataError(
                        f"the column '{source}' of {self._where} is {types[source]}, and input "
                        f"'{spec.name}' is {spec.datatype}.",
                        hint=f"cast the column, or choose another with --map {spec.name}=COLUMN",
                    )
                if spec.dtype.kind == "f":
                    floats.add(source)
        return frozenset(floats)

    @property
    def at_once(self) -> bool:
        """Whether blocks can be converted as a whole at all."""
        return self._fills is not None

    def tensors(self, batch: pa.RecordBatch) -> Tensors | None:
        """All rows at once; None where they have to be looked at one by one."""
        if self._fills is None:
            return None
        found: Tensors = {}
        try:
            with np.errstate(over="raise", invalid="ignore"):
                for spec, columns in self._fills:
                    found[spec.name] = self._tensor(batch, spec, columns)
        except (_Unusual, FloatingPointError, self._pa.ArrowException):
            return None
        return found

    def _tensor(
        self, batch: pa.RecordBatch, spec: TensorSpec, columns: Sequence[tuple[str, Column | None]]
    ) -> Array:
        first = batch.column(columns[0][0])
        if _is_list(first.type):
            return self._nested(first, spec)
        if spec.name in self._uniform:
            try:
                matrix = batch.select(self._uniform[spec.name]).to_tensor(row_major=True)
            except self._pa.ArrowException:
                pass  # there are holes in it
            else:
                whole: Array = matrix.to_numpy()
                return whole
        out = np.empty((batch.num_rows, len(columns)), spec.dtype)
        for place, (name, declared) in enumerate(columns):
            column = batch.column(name)
            if spec.datatype == "BYTES":
                out[:, place] = _bytes(column, declared)
            else:
                _fill(out[:, place], column, declared, self._pa)
        return out.reshape(-1) if len(spec.shape) == 1 else out

    def _one_type(
        self,
        types: Mapping[str, pa.DataType],
        spec: TensorSpec,
        columns: Sequence[tuple[str, Column | None]],
    ) -> list[str]:
        """The columns of a matrix that all have its own type, which Arrow converts in one call;
        none where there are others."""
        if len(columns) < 2 or spec.datatype in ("BYTES", "BOOL"):  # truth values are bits there
            return []
        if any(column is not None and column.type == "integer" for _, column in columns):
            return []  # its floats have to be looked at
        wanted = self._pa.from_numpy_dtype(spec.dtype)
        names = [name for name, _ in columns]
        return names if all(types[name] == wanted for name in names) else []

    def _nested(self, column: pa.Array, spec: TensorSpec) -> Array:
        """Lists of one length each → an array; lists in lists are its further dimensions."""
        import pyarrow.compute as pc

        shape = [len(column)]
        while _is_list(column.type):
            lengths = pc.min_max(pc.list_value_length(column))
            if column.null_count or lengths["min"] != lengths["max"]:
                raise _Unusual
            shape.append(lengths["min"].as_py() or 0)
            column = column.flatten()
        if column.null_count and spec.dtype.kind != "f":
            raise _Unusual
        if spec.datatype == "BYTES":
            array = _bytes(column, None)
        else:
            array = column.to_numpy(zero_copy_only=False)
        sizes = spec.shape[1:]
        fixed = [size for size in sizes if isinstance(size, int)]
        if len(shape) == 2 and len(fixed) == len(sizes) and int(np.prod(fixed)) == shape[1]:
            shape = [shape[0], *fixed]  # pictures and the like lie flat in most files
        try:
            fitted = fit(
                {spec.name: array.reshape(shape)}, _only(self._plan, spec), where="the block"
            )
        except DataError as error:
            raise _Unusual from error
        return fitted[spec.name]

    def _row_by_row(self, batch: pa.RecordBatch) -> Prepared:
        values = batch.to_pylist()
        if isinstance(self._layout.assembler, ColumnRows):
            for name in self._float_columns:
                for value in values:
                    if value[name] is None:
                        value[name] = np.nan  # what pandas writes for NaN
        taken = [self._layout.row(value) for value in values]
        if isinstance(self._plan.manifest.processing.input, ImageInput):
            taken = [value["bytes"] if isinstance(value, dict) else value for value in taken]
        return rows.prepare(taken, self._layout.assembler, self._plan.manifest)


def _fill(out: Array, column: pa.Array, declared: Column | None, pa: Any) -> None:
    """Numbers or truth values → a column of a matrix."""
    if column.null_count:
        if declared is not None and not declared.nullable:
            if declared.default is None:
                raise _Unusual
            column = column.fill_null(declared.default)
        elif out.dtype.kind != "f":
            raise _Unusual
    if pa.types.is_null(column.type) or pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    array = column.to_numpy(zero_copy_only=False)
    if array.dtype.kind == "O":  # truth values with nulls
        raise _Unusual
    kind = out.dtype.kind
    if declared is not None and declared.type == "integer" and array.dtype.kind == "f":
        known = array[~np.isnan(array)] if declared.nullable else array
        if not np.all(known == np.floor(known)) or not np.all(np.isfinite(known)):
            raise _Unusual
    if array.dtype == out.dtype:
        out[:] = array
        return
    if kind == "b":
        raise _Unusual
    if kind in "iu" and len(array):
        if array.dtype.kind == "f" and not np.all(array == np.floor(array)):
            raise _Unusual
        limits = np.iinfo(out.dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise _Unusual
    out[:] = array


def _bytes(column: pa.Array, declared: Column | None) -> Array:
    """Text → an object array of bytes."""
    import pyarrow as pa

    if column.null_count:
        default = "" if declared is None else declared.default
        if default is None:
            raise _Unusual
        column = column.fill_null(default)
    if pa.types.is_boolean(column.type):
        raise _Unusual
    array: Array = column.cast(pa.large_binary()).to_numpy(zero_copy_only=False)
    return array


def _only(plan: Plan, spec: TensorSpec) -> Any:
    import msgspec

    return msgspec.structs.replace(plan.manifest, inputs=(spec,))


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Dictionaries (pandas' categories) → their values."""
    import pyarrow as pa

    for place, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            batch = batch.set_column(place, field.name, batch.column(place).dictionary_decode())
    return batch


def _value_type(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _leaf(kind: pa.DataType) -> pa.DataType:
    while _is_list(kind):
        kind = kind.value_type
    return kind


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_picture(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):  # {"bytes", "path"}, as Hugging Face's data sets have them
        return "bytes" in [field.name for field in kind]
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is_text(kind))


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _is_boolean(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_boolean(kind))


_TABLE = {
    "number": _is_number,
    "integer": _is_number,
    "string": _is_text,
    "boolean": _is_boolean,
}
_MEANING = {
    "number": "a number",
    "integer": "a whole number",
    "string": "text",
    "boolean": "true or false",
}


def _fits(kind: pa.DataType, spec: TensorSpec) -> bool:
    """Whether a column can go into an input that declares nothing: wider floats are narrowed and
    integers become floats, never floats integers, never text numbers."""
    import pyarrow as pa

    if spec.datatype == "BYTES":
        return _is_text(kind) or bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
    whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if spec.dtype.kind == "f":
        return bool(whole or pa.types.is_floating(kind))
    if spec.dtype.kind == "b":
        return bool(pa.types.is_boolean(kind))
    return bool(whole)


def require() -> None:
    """Raises `MissingExtra` where pyarrow is not installed."""
    with needs_extra("batch", "read and write Parquet and Arrow files"):
        import pyarrow  # noqa: F401
