"""Parquet, Arrow's IPC files and Feather: rows with named columns, read some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlserve_cli.data import rows
from mlserve_cli.data.batch import Batch
from mlserve_cli.data.reading import Reading, Source
from mlserve_cli.data.rows import Row
from mlserve_cli.errors import DataError, first_line, needs_extra

ROWS_AT_ONCE = 1024


def read(source: Source, reading: Reading) -> Iterator[Batch]:
    """Stream the file's rows. Raises `DataError` with the row, the column and the value."""
    return rows.batches(stream(source), reading)


def stream(source: Source) -> Iterator[Row]:
    """The rows as they stand in the file; null is None. Raises `DataError` and `MissingExtra`."""
    if source.path is None:
        raise DataError("Parquet and Arrow cannot be read from stdin.", hint="give the file's name")
    with needs_extra("batch", "read Parquet and Arrow files"):
        import pyarrow  # noqa: F401
    number = 0
    try:
        for batch in _batches(source):
            for value in batch.to_pylist():
                number += 1
                yield Row(number, value)
    except (OSError, ValueError) as error:  # all of Arrow's are one or the other
        raise DataError(f"{source.name} cannot be read: {first_line(error)}.") from error


def _batches(source: Source) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with source.opened() as file:
        head = file.read(6)
        file.seek(0)
        if head.startswith(b"PAR1"):
            yield from pq.ParquetFile(file).iter_batches(batch_size=ROWS_AT_ONCE)
        elif head == b"ARROW1":
            with pa.ipc.open_file(file) as reader:
                for index in range(reader.num_record_batches):
                    yield reader.get_batch(index)
        else:
            with pa.ipc.open_stream(file) as batches:
                yield from batches
