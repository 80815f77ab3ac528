"""Parquet: row group after row group, some rows of it at a time, only the columns that are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlserve_cli.errors import DataError, first_line
from mlserve_cli.predict import table
from mlserve_cli.predict.blocks import Block
from mlserve_cli.predict.columnar import ColumnarReader
from mlserve_cli.predict.job import Position
from mlserve_cli.predict.location import Location

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BUFFER_BYTES = 1 << 20
"""Of each column's chunk: without it pyarrow reads a whole row group into memory at once."""

BLOCKS_AT_ONCE = 4
"""Of one reading: each costs as much for every column as the values of some hundred rows."""

MOST_FOOTERS = 200
"""Files of which the number of rows is looked up before the first is read."""


class ParquetReader(ColumnarReader):
    """Blocks never cross row groups, so that they are the same wherever the reading begins."""

    def total(self) -> int | None:
        """From the footers, where they are not too many."""
        if len(self._files) > MOST_FOOTERS:
            return None
        total = 0
        for file in self._files:
            with _opened(file) as opened:
                total += opened.metadata.num_rows
        return total

    def blocks(self, start: Position) -> Iterator[Block]:
        """A block holds (columns, record batch)."""
        for index in range(start.file, len(self._files)):
            file = self._files[index]
            with _opened(file) as opened:
                schema = opened.schema_arrow
                columns = self._columns_of(schema, file.name)
                begin = start.row if index == start.file else 0
                try:
                    for batch, row in self._batches(opened, columns, begin):
                        after = Position(file=index, row=row + batch.num_rows)
                        yield Block((columns, batch), file.name, row + 1, batch.num_rows, after)
                except (OSError, ValueError) as error:  # all of Arrow's are one or the other
                    raise _damaged(file, error) from error

    def _batches(
        self, opened: pq.ParquetFile, columns: table.Columns, begin: int
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """(rows, the number of the first of them from 0), from row `begin` on."""
        block = self._plan.block
        row = 0
        for group in range(opened.metadata.num_row_groups):
            size = opened.metadata.row_group(group).num_rows
            if row + size <= begin:
                row += size
                continue
            end = row + size
            for large in opened.iter_batches(
                batch_size=block * BLOCKS_AT_ONCE,
                row_groups=[group],
                columns=columns.names,
                use_threads=False,  # whoever reads has a core; more would be taken from others
            ):
                for place in range(0, large.num_rows, block):
                    batch = large.slice(place, block)
                    if row >= begin:
                        yield batch, row
                    row += batch.num_rows
            if row != end:
                raise ValueError(f"row group {group} has {row - end + size} rows and says {size}")


def _opened(file: Location) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    source = file.open() if file.is_remote else file.name
    try:
        return pq.ParquetFile(source, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Location, error: Exception) -> DataError:
    return DataError(f"'{file.name}' is no whole Parquet file: {first_line(error)}.")
