"""One JSON document: a list of rows, or a single row, as a request's body has them.

It is read whole; `jsonl` streams, and holds what does not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mlserve_cli.data import rows
from mlserve_cli.data.batch import Batch
from mlserve_cli.data.reading import Reading, Source
from mlserve_cli.data.rows import Row
from mlserve_cli.errors import DataError
from mlserve_cli.runtime import json_text
from mlserve_cli.runtime.errors import InvalidRequest

_decoder: msgspec.json.Decoder[object] = msgspec.json.Decoder(object)


def read(source: Source, reading: Reading) -> Iterator[Batch]:
    """The file's rows. Raises `DataError` with the row, the column and the value."""
    return rows.batches(stream(source), reading)


def stream(source: Source) -> Iterator[Row]:
    """The file's rows as they stand there. Raises `DataError`."""
    with source.opened() as file:
        text = file.read().removeprefix(b"\xef\xbb\xbf")
    try:
        text.decode("utf-8")
        document = json_text.decode(text, _decoder)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source.name} is not UTF-8: {error.reason}.", hint="save it again as UTF-8"
        ) from error
    except InvalidRequest as error:
        reason = error.message.rpartition("buffer: ")[2]
        raise DataError(
            f"{source.name} is no JSON: {reason}.",
            hint="a list of rows; one value a line is .jsonl",
        ) from error
    values = document if isinstance(document, list) else [document]
    for number, value in enumerate(values, 1):
        yield Row(number, value)
