"""Files of answers: a part of them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from mlserve_cli.errors import DataError
from mlserve_cli.predict.answers import Piece, other_columns, other_shape
from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    import pyarrow as pa

Columns = tuple[str, ...] | str | None
"""What all parts of a job share: names for CSV, the schema in base64 for Arrow and Parquet."""


class PartWriter(Protocol):
    """Writes one file, piece after piece."""

    columns: Columns

    def write(self, piece: Piece) -> None:
        """Raises `DataError` for a piece that does not go with those before it."""
        ...

    def finish(self) -> None:
        """Write what stands at the end."""
        ...


class TextPart:
    """Lines; of CSV with a header, which is the columns of the job's first piece."""

    def __init__(self, file: BinaryIO, columns: Columns, *, header: bool) -> None:
        self.columns = columns
        self._file = file
        self._header = header

    def write(self, piece: Piece) -> None:
        """Append lines."""
        if self._header:
            if self.columns is None:
                self.columns = piece.columns
            if piece.columns != self.columns:
                raise other_columns(piece.columns, tuple(self.columns))
            self._file.write(csv_header(piece.columns))
            self._header = False
        elif piece.columns and piece.columns != self.columns:
            raise other_columns(piece.columns, tuple(self.columns or ()))
        self._file.write(piece.content)

    def finish(self) -> None:
        """All is written."""


class NpzPart:
    """Arrays, which are kept until the end, for their length stands before their rows."""

    def __init__(self, file: BinaryIO, columns: Columns) -> None:
        self.columns = columns
        self._file = file
        self._parts: dict[str, list[Array]] = {}

    def write(self, piece: Piece) -> None:
        """Keep arrays."""
        for name, array in piece.content.items():
            parts = self._parts.setdefault(name, [])
            if parts and parts[0].shape[1:] != array.shape[1:]:
                raise other_shape(name, array.shape[1:], parts[0].shape[1:])
            if array.ndim or not parts:  # a value without rows is the same for all of them
                parts.append(array)

    def finish(self) -> None:
        """Write the archive."""
        whole = {
            name: np.concatenate(parts) if parts[0].ndim else parts[0]
            for name, parts in self._parts.items()
        }
        np.savez(self._file, allow_pickle=False, **whole)


class ArrowPart:
    """Record batches of one schema, that of the job's first piece."""

    def __init__(self, file: BinaryIO, columns: Columns, *, parquet: bool) -> None:
        self.columns = columns
        self._file = file
        self._parquet = parquet
        self._schema = decoded(columns) if isinstance(columns, str) else None
        self._batches: list[pa.RecordBatch] = []

    def write(self, piece: Piece) -> None:
        """Append rows."""
        import pyarrow as pa

        batch = piece.content
        if self._schema is None:
            self._schema = batch.schema.remove_metadata()
            self.columns = base64.b64encode(self._schema.serialize()).decode()
        if batch.schema.names != self._schema.names:
            raise other_columns(batch.schema.names, self._schema.names)
        if not batch.schema.equals(self._schema):
            try:
                batch = batch.cast(self._schema)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                name, found, before = next(
                    (field.name, field.type, known.type)
                    for field, known in zip(batch.schema, self._schema, strict=True)
                    if field.type != known.type
                )
                raise DataError(
                    f"the column '{name}' holds {found} after {before}.", hint="write to .jsonl"
                ) from error
        # A part is one row group, or one record batch: pieces are small, and those should not be.
        self._batches.append(batch)

    def finish(self) -> None:
        """Write the rows, and the footer."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = pa.Table.from_batches(self._batches, self._schema).combine_chunks()
        if self._parquet:
            with pq.ParquetWriter(
                self._file, self._schema, use_dictionary=repeated(self._schema)
            ) as writer:
                writer.write_table(rows, row_group_size=max(1, rows.num_rows))
        else:
            with pa.ipc.new_file(self._file, self._schema) as stream:
                stream.write_table(rows)


def part(format: str, file: BinaryIO, columns: Columns) -> PartWriter:
    """What writes a part of that format to `file`; `columns` are the job's, once they are known."""
    if format in ("csv", "jsonl"):
        return TextPart(file, columns, header=format == "csv")
    if format == "npz":
        return NpzPart(file, columns)
    return ArrowPart(file, columns, parquet=format == "parquet")


def csv_header(columns: Iterable[str]) -> bytes:
    """The first line."""
    import csv
    import io

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(columns)
    return text.getvalue().encode()


def repeated(schema: Any) -> list[str]:
    """Columns whose values come again and again, such as labels; scores hardly ever do."""
    import pyarrow as pa

    return [field.name for field in schema if not pa.types.is_floating(_leaf(field.type))]


def _leaf(kind: Any) -> Any:
    import pyarrow as pa

    while pa.types.is_list(kind):
        kind = kind.value_type
    return kind


def decoded(columns: str) -> Any:
    """The schema that a job's columns are."""
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(columns)))


WRITTEN: Mapping[str, str] = {
    "csv": ".csv",
    "jsonl": ".jsonl",
    "npz": ".npz",
    "parquet": ".parquet",
    "arrow": ".arrow",
}
"""Format → the ending of a file's name."""

KEPT_AS: Mapping[str, str] = {"parquet": "arrow"}
"""Format of a single file → what its parts are until then, where that is another: Parquet would be
encoded twice."""
