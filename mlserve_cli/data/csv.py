"""CSV: UTF-8, a header line with the names of the columns, commas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from mlserve_cli.data import rows
from mlserve_cli.data.batch import Batch
from mlserve_cli.data.processed import Cell
from mlserve_cli.data.reading import Reading, Source
from mlserve_cli.data.rows import Row
from mlserve_cli.errors import DataError


def read(source: Source, reading: Reading) -> Iterator[Batch]:
    """Stream the file's rows. Raises `DataError` with the row, the column and the value."""
    return rows.batches(stream(source), reading)


def stream(source: Source) -> Iterator[Row]:
    """The rows as they stand in the file. Raises `DataError` as `read` does."""
    number = 0
    with source.opened() as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            lines = csv.reader(text, strict=True)
            columns = header(next(lines, None), source.name)
            for cells in lines:
                if not cells:
                    continue  # an empty line is no row
                number += 1
                if len(cells) != len(columns):
                    raise DataError(
                        f"{source.name}, row {number} has {len(cells)} values, and the header "
                        f"names {len(columns)} columns.",
                        hint='a value that holds a comma stands in "quotes"',
                    )
                yield Row(number, dict(zip(columns, map(Cell, cells), strict=True)))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{source.name} is not UTF-8 (after row {number}): {error.reason}.",
                hint="save it again as UTF-8",
            ) from error
        except csv.Error as error:
            raise DataError(f"{source.name} cannot be read after row {number}: {error}.") from error
        finally:
            text.detach()  # the file is the source's to close


def header(names: list[str] | None, where: str) -> list[str]:
    """The names of the columns in a first line. Raises `DataError` where they cannot be such."""
    if not names:
        raise DataError(f"{where} is empty.", hint="a header line, then a line a row")
    names = [name.strip() for name in names]
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise DataError(
            f"the header of {where} is one column, '{names[0][:60]}'.",
            hint="separate the columns by commas",
        )
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{where} has no header: its first line holds only numbers.",
            hint="name the columns in the first line",
        )
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where} has two columns '{name}'.")
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
