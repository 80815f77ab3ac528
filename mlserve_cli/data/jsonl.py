"""JSON Lines: UTF-8, one JSON value a line, of the form that a request's row has.

An object may hold the target beside the inputs. NaN and Infinity may stand in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from mlserve_cli.data import rows
from mlserve_cli.data.batch import Batch
from mlserve_cli.data.reading import Reading, Source
from mlserve_cli.data.rows import Row
from mlserve_cli.errors import DataError
from mlserve_cli.runtime import json_text
from mlserve_cli.runtime.errors import InvalidRequest

_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)


def read(source: Source, reading: Reading) -> Iterator[Batch]:
    """Stream the file's rows. Raises `DataError` with the row, the column and the value."""
    return rows.batches(stream(source), reading)


def stream(source: Source) -> Iterator[Row]:
    """The rows as they stand in the file. Raises `DataError` as `read` does."""
    number = 0
    with source.opened() as file:
        for line in file:
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            if not text.strip():
                continue  # an empty line is no row
            number += 1
            try:
                text.decode("utf-8")
                yield Row(number, json_text.decode(text, _decoder))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{source.name}, row {number} is not UTF-8: {error.reason}.",
                    hint="save it again as UTF-8",
                ) from error
            except InvalidRequest as error:
                reason = error.message.rpartition("buffer: ")[2]
                raise DataError(
                    f"{source.name}, row {number} is no JSON: {reason}.",
                    hint="one JSON value a line",
                ) from error
