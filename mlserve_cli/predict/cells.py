"""Cells of CSV → the model's inputs, all rows of a block at once.

Text is given types here, by Arrow where a block is as plain as most are and by Python's `float`
where it is not, and is then converted as the columns of a Parquet file are. Whatever neither takes
exactly as the way row by row does is left to that: answers and reasons never depend on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import MlserveError
from mlserve_cli.predict import layout, table
from mlserve_cli.predict.blocks import Plan
from mlserve_cli.runtime.processing.declaration import TableInput
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    import pyarrow as pa

_BOM = b"\xef\xbb\xbf"

_EXACT = 2.0**53
"""Whole numbers from here on are not all floats."""

_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


class Cells:
    """How the cells under one header become a package's inputs."""

    def __init__(
        self, header: Sequence[str], kinds: dict[str, str], columns: table.Columns, plan: Plan
    ) -> None:
        import pyarrow as pa

        self._header = list(header)
        self._columns = columns
        self._kinds = kinds
        self._types = {name: _type(kind, pa) for name, kind in kinds.items()}
        # An empty cell is a missing value where the package declares columns; else a mistake.
        self._missing = isinstance(plan.manifest.processing.input, TableInput)
        self._keep = plan.keep
        self._strange = (b"(", b"x", b"X") if "whole" in kinds.values() else (b"(",)

    def of_text(self, text: bytes, rows: int) -> tuple[Tensors, dict[str, Any]] | None:
        """(inputs, kept columns) of whole lines without quotes; None where Arrow would not read
        them, or not as Python does.

        Differences that are known: Arrow drops a byte order mark, and takes "nan(1)" for a number
        and "0x1F" for a whole one.
        """
        if text.startswith(_BOM) or any(mark in text for mark in self._strange):
            return None
        try:
            if not text.isascii():
                text.decode("utf-8")
            batch = self._read(text)
        except (ValueError, OverflowError):  # all that Arrow raises for content is the first
            return None
        if batch is None or batch.num_rows != rows:
            return None
        tensors = self._tensors(batch)
        if tensors is None:
            return None
        return tensors, {name: batch.column(name) for name in self._keep}

    def _read(self, text: bytes) -> pa.RecordBatch | None:
        import pyarrow as pa
        import pyarrow.csv as csv

        used = [*self._types, *self._keep]
        read = csv.read_csv(
            pa.py_buffer(text),
            read_options=csv.ReadOptions(
                column_names=self._header, use_threads=False, block_size=len(text) + 1
            ),
            parse_options=csv.ParseOptions(quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types=self._types | dict.fromkeys(self._keep, pa.string()),
                include_columns=used,
                null_values=[""] if self._missing else [],
                true_values=[form for word in _TRUE for form in _forms(word)],
                false_values=[form for word in _FALSE for form in _forms(word)],
            ),
        )
        batches = read.combine_chunks().to_batches()
        return batches[0] if len(batches) == 1 else None

    def of_cells(self, rows: Sequence[Sequence[str]]) -> Tensors | None:
        """Inputs of rows that a parser found, each as long as the header."""
        import pyarrow as pa

        arrays = {}
        try:
            for name, kind in self._kinds.items():
                place = self._header.index(name)
                parse = _PARSE[kind]
                column = [row[place] for row in rows]
                if self._missing and kind != "text" and "" in column:
                    values = [None if cell == "" else parse(cell) for cell in column]
                else:
                    values = list(map(parse, column))
                arrays[name] = pa.array(values, self._types[name])
        except (ValueError, KeyError, OverflowError):
            return None
        return self._tensors(pa.RecordBatch.from_pydict(arrays))

    def _tensors(self, batch: pa.RecordBatch) -> Tensors | None:
        for name, kind in self._kinds.items():
            if kind == "integer" and not _all_whole(batch.column(name)):
                return None
        return self._columns.tensors(batch)


def find(header: Sequence[str], used: layout.Layout, plan: Plan, *, where: str) -> Cells | None:
    """None where rows have to be taken one by one: the package's own processing, text, pictures, or
    no pyarrow."""
    try:
        import pyarrow as pa
    except ImportError:
        return None
    declared = plan.manifest.processing.input
    kinds: dict[str, str] = {}
    if isinstance(declared, TableInput):
        for column in declared.columns:
            source = used.columns.get(column.name)
            if source is not None:
                kind = {"string": "text", "boolean": "truth"}.get(column.type, column.type)
                if kinds.setdefault(source, kind) != kind:
                    return None
    elif used.whole or used.bare:
        return None
    else:
        specs = {spec.name: spec for spec in plan.manifest.inputs}
        for name, source in used.columns.items():
            spec = plan.manifest.inputs[0] if used.matrix else specs[name]
            kind = "text" if spec.datatype == "BYTES" else _KINDS[spec.dtype.kind]
            if kinds.setdefault(source, kind) != kind:
                return None
    if not kinds or set(kinds) & set(plan.keep):
        return None  # what is kept is kept as text
    schema = pa.schema([(name, _type(kinds.get(name, "text"), pa)) for name in header])
    try:
        columns = table.Columns(schema, plan, where=where)
    except MlserveError:
        return None
    return Cells(header, kinds, columns, plan) if columns.at_once else None


def _truth(cell: str) -> bool:
    return _WORDS[cell.strip().lower()]


def _text(cell: str) -> str:
    return cell


_WORDS = dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)

_KINDS = {"f": "number", "i": "whole", "u": "whole", "b": "truth"}
"""NumPy's kind of an input → that of its cells where nothing is declared."""

_PARSE: dict[str, Callable[[str], Any]] = {
    "number": float,
    "integer": float,  # "3.0" is one, too
    "whole": int,
    "truth": _truth,
    "text": _text,
}


def _type(kind: str, pa: Any) -> pa.DataType:
    """Never narrower than a float of Python: text that is rounded twice may be rounded wrongly."""
    if kind in ("number", "integer"):
        return pa.float64()
    return {"whole": pa.int64, "truth": pa.bool_, "text": pa.string}[kind]()


def _forms(word: str) -> set[str]:
    return {word, word.upper(), word.capitalize()}


def _all_whole(column: pa.Array) -> bool:
    """Whether the floats are whole numbers that text of them cannot have been rounded to."""
    values = column.drop_null().to_numpy(zero_copy_only=False)
    return bool(np.all(np.abs(values) < _EXACT) and np.all(values == np.floor(values)))
