"""Arrow's IPC files and streams, and Feather, which is such a file."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from mlserve_cli.errors import DataError, first_line
from mlserve_cli.predict.blocks import Block
from mlserve_cli.predict.columnar import ColumnarReader
from mlserve_cli.predict.job import Position
from mlserve_cli.predict.location import DAMAGED

if TYPE_CHECKING:
    import pyarrow as pa

_FILE_MAGIC = b"ARROW1"


class ArrowReader(ColumnarReader):
    """Blocks never cross record batches, so that they are the same wherever the reading begins."""

    def total(self) -> int | None:
        """A stream does not say, and a file only at the head of each batch."""
        return None

    def blocks(self, start: Position) -> Iterator[Block]:
        """A block holds (columns, record batch)."""
        for index in range(start.file, len(self._files)):
            name = self._files[index].name
            begin = start.row if index == start.file else 0
            row = 0
            try:
                with contextlib.closing(self._batches(index)) as batches:
                    for large in batches:
                        columns = self._columns_of(large.schema, name)
                        used = large.select(columns.names)
                        for place in range(0, used.num_rows, self._plan.block):
                            batch = used.slice(place, self._plan.block)
                            if row >= begin:
                                after = Position(file=index, row=row + batch.num_rows)
                                content = (columns, batch)
                                yield Block(content, name, row + 1, batch.num_rows, after)
                            row += batch.num_rows
            except DataError:
                raise
            except (*DAMAGED, ValueError) as error:  # Arrow's are OSError or ValueError
                raise DataError(f"'{name}' is no whole Arrow file: {first_line(error)}.") from error

    def _batches(self, index: int) -> Generator[pa.RecordBatch, None, None]:
        import pyarrow as pa

        file = self._files[index]
        with file.open() as source:
            is_file = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
            source.seek(0)
            if is_file and not file.is_remote:
                with pa.OSFile(file.name) as local, pa.ipc.open_file(local) as reader:
                    for number in range(reader.num_record_batches):
                        yield reader.get_batch(number)
            elif is_file:
                with pa.ipc.open_file(source) as reader:
                    for number in range(reader.num_record_batches):
                        yield reader.get_batch(number)
            else:
                with pa.ipc.open_stream(source) as stream:
                    yield from stream
