"""What the model says → what stands in the output, by its format. Done by those who predict."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlserve_cli.errors import DataError, needs_extra
from mlserve_cli.runtime import json_text
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import Processor
from mlserve_cli.runtime.processing.declaration import ClassesOutput, ValuesOutput
from mlserve_cli.runtime.processing.outputs import softmax
from mlserve_cli.runtime.tensors import Array, Tensors, rows

if TYPE_CHECKING:
    import pyarrow as pa

Kept = Mapping[str, Any]
"""Column → a value a row: a list, a NumPy array or an Arrow array."""

FORMATS: Mapping[str, str] = {
    "csv": "mlserve_cli.predict.answers:CsvAnswers",
    "jsonl": "mlserve_cli.predict.answers:JsonLinesAnswers",
    "npz": "mlserve_cli.predict.answers:NpzAnswers",
    "parquet": "mlserve_cli.predict.answers:ArrowAnswers",
    "arrow": "mlserve_cli.predict.answers:ArrowAnswers",
}
"""Format → `module:Class`, an `Answers`."""

SUFFIXES: Mapping[str, str] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npz": "npz",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
"""The output's ending → format."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Answers of a block, ready to be written. `content` is what the format's writer takes."""

    content: Any
    columns: tuple[str, ...] = ()


class Answers(Protocol):
    """Makes pieces; called by several threads."""

    def piece(self, runs: Sequence[Tensors], kept: Kept) -> Piece:
        """The answers to rows that stand in `runs` and `kept` in the same order."""
        ...


def find(format: str, manifest: Manifest, processor: Processor) -> Answers:
    """What makes the answers of that format."""
    module, _, name = FORMATS[format].partition(":")
    made: Answers = getattr(importlib.import_module(module), name)(manifest, processor)
    return made


def kept_names(names: Sequence[str], manifest: Manifest) -> dict[str, str]:
    """Kept columns → what they are called beside the answers: `input_label`, if need be."""
    declared = manifest.processing.output
    taken: set[str] = set()
    if isinstance(declared, ClassesOutput):
        taken = {"label", "score", "scores"}
    elif isinstance(declared, ValuesOutput):
        taken = {"value", "values"}
    elif manifest.processing.python is None:
        taken = {spec.name for spec in manifest.outputs}
    return {name: f"input_{name}" if name in taken else name for name in names}


class _Rowed:
    """Answers as a server gives them: a JSON value a row."""

    def __init__(self, manifest: Manifest, processor: Processor) -> None:
        self._manifest = manifest
        self._processor = processor

    def _answers(self, runs: Sequence[Tensors]) -> list[Any]:
        return [answer for outputs in runs for answer in self._processor.answers(outputs)]

    def _beside(self, kept: Kept, count: int) -> list[dict[str, Any]]:
        """The kept values of each row, under the names that they have beside the answers."""
        names = kept_names(list(kept), self._manifest)
        columns = {names[name]: _values(column) for name, column in kept.items()}
        return [{name: column[row] for name, column in columns.items()} for row in range(count)]


class JsonLinesAnswers(_Rowed):
    """One JSON value a line. NaN is written as null."""

    def piece(self, runs: Sequence[Tensors], kept: Kept) -> Piece:
        """A line a row; kept columns stand before the answer's own names."""
        answers = self._answers(runs)
        if kept:
            beside = self._beside(kept, len(answers))
            answers = [
                {**before, **(answer if isinstance(answer, dict) else {"answer": answer})}
                for before, answer in zip(beside, answers, strict=True)
            ]
        return Piece(b"".join([json_text.encode(answer) + b"\n" for answer in answers]))


class CsvAnswers(_Rowed):
    """`label` and `score` of a class; else a column a value: `name`, `name_0`, `name_1` …"""

    def piece(self, runs: Sequence[Tensors], kept: Kept) -> Piece:
        """Lines without the header, which the piece's columns are."""
        # The scores of the best classes are of other classes in every row: no columns.
        best_only = isinstance(self._manifest.processing.output, ClassesOutput)
        text = io.StringIO(newline="")
        lines = csv.writer(text, lineterminator="\n")
        columns: list[str] | None = None
        answers = self._answers(runs)
        beside = self._beside(kept, len(answers))
        for before, answer in zip(beside, answers, strict=True):
            if best_only and isinstance(answer, dict) and "scores" in answer:
                answer = {name: value for name, value in answer.items() if name != "scores"}
            flat = {
                **before,
                **dict(_flat("" if isinstance(answer, dict) else "answer", answer)),
            }
            if columns is None:
                columns = list(flat)
            elif list(flat) != columns:
                raise other_columns(list(flat), columns)
            lines.writerow(flat.values())
        return Piece(text.getvalue().encode(), tuple(columns or ()))


class NpzAnswers:
    """The model's outputs by name, as they are."""

    def __init__(self, manifest: Manifest, processor: Processor) -> None:
        self._manifest = manifest

    def piece(self, runs: Sequence[Tensors], kept: Kept) -> Piece:
        """Arrays by name."""
        first = runs[0]
        for outputs in runs[1:]:
            for name, array in outputs.items():
                if array.shape[1:] != first[name].shape[1:]:
                    raise other_shape(name, array.shape[1:], first[name].shape[1:])
        whole = {
            name: np.concatenate([outputs[name] for outputs in runs]) if array.ndim else array
            for name, array in first.items()
        }
        names = kept_names(list(kept), self._manifest)
        beside = {names[name]: _array(name, column) for name, column in kept.items()}
        return Piece({name: _plain(array) for name, array in (beside | whole).items()})


class ArrowAnswers:
    """Typed columns: `label` and `score`, `value`, or the model's outputs; lists where a row has
    several values."""

    def __init__(self, manifest: Manifest, processor: Processor) -> None:
        with needs_extra("batch", "read and write Parquet and Arrow files"):
            import pyarrow  # noqa: F401
        self._manifest = manifest
        self._processor = processor

    def piece(self, runs: Sequence[Tensors], kept: Kept) -> Piece:
        """A record batch."""
        import pyarrow as pa

        names = kept_names(list(kept), self._manifest)
        parts = []
        for outputs in runs:
            columns = self._columns(outputs)
            parts.append(pa.RecordBatch.from_pydict(columns))
        answers = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        columns = {}
        for name, column in kept.items():
            try:
                array = column if isinstance(column, pa.Array) else pa.array(_values(column))
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(
                    f"the kept column '{name}' holds values of several kinds.",
                    hint="write to .jsonl",
                ) from error
            columns[names[name]] = array
        columns |= {field.name: answers.column(place) for place, field in enumerate(answers.schema)}
        return Piece(pa.RecordBatch.from_pydict(columns))

    def _columns(self, outputs: Tensors) -> dict[str, pa.Array]:
        import pyarrow as pa

        processing = self._manifest.processing
        if processing.python is not None:
            answers = self._processor.answers(outputs)
            if not all(isinstance(answer, dict) for answer in answers):
                answers = [{"answer": answer} for answer in answers]
            try:
                made = pa.RecordBatch.from_pylist(answers)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(
                    "the answers hold values of several kinds under one name.",
                    hint="write to .jsonl",
                ) from error
            return {field.name: made.column(place) for place, field in enumerate(made.schema)}
        declared = processing.output
        if isinstance(declared, ClassesOutput):
            return _classes(outputs[declared.tensor], declared, self._manifest.labels)
        if isinstance(declared, ValuesOutput):
            values = outputs[declared.tensor]
            values = values.reshape(len(values), -1)
            if values.shape[1] == 1:
                return {"value": _column(values[:, 0])}
            return {"values": _column(values)}
        count = max(rows({name: array}) for name, array in outputs.items())
        return {
            name: _column(
                array
                if array.ndim and len(array) == count
                else np.broadcast_to(array, (count, *array.shape))
            )
            for name, array in outputs.items()
        }


def _classes(scores: Array, declared: ClassesOutput, labels: Sequence[str]) -> dict[str, pa.Array]:
    """`label` and `score` as `runtime.processing.outputs.ClassesWriter` has them, all at once."""
    import pyarrow as pa

    scores = scores.reshape(len(scores), -1).astype(np.float64)
    if declared.softmax:
        scores = softmax(scores)
    best = np.argmax(np.where(np.isnan(scores), -np.inf, scores), axis=1)  # the first of equals
    score = np.take_along_axis(scores, best[:, None], axis=1)[:, 0]
    known = np.isfinite(score)
    certain = known
    if declared.threshold is not None:
        # Rounded as an answer's score is, so that both say the same on the threshold itself.
        rounded = np.array([float(f"{each:.6g}") for each in score])
        certain = known & (rounded >= declared.threshold)
    names = [*labels, *map(str, range(len(labels), scores.shape[1]))]
    chosen = pa.array(best, pa.int64(), mask=~certain)
    return {
        "label": pa.array(names, pa.string()).take(chosen),
        "score": pa.array(score, pa.float64(), mask=~known),
    }


def _column(array: Array) -> pa.Array:
    """(rows,) or (rows, 1) → a value a row; everything else → lists."""
    import pyarrow as pa

    if array.shape[1:] == (1,):
        array = array[:, 0]
    if array.dtype == np.float16:
        array = array.astype(np.float32)  # few readers know halves
    if array.ndim == 1:
        if array.dtype.kind == "O":
            return pa.array([_text(item) for item in array], pa.string())
        if array.dtype.kind == "b":
            return pa.array(np.ascontiguousarray(array))
        # `pa.array` would import pandas first, to see whether this is its.
        kind = pa.from_numpy_dtype(array.dtype)
        return pa.Array.from_buffers(
            kind, len(array), [None, pa.py_buffer(np.ascontiguousarray(array))]
        )
    column = _column(np.ascontiguousarray(array).reshape(-1))
    for axis in range(array.ndim - 1, 0, -1):
        lists = int(np.prod(array.shape[:axis]))
        offsets = np.arange(lists + 1, dtype=np.int32) * np.int32(array.shape[axis])
        column = pa.ListArray.from_arrays(_column(offsets), column)
    return column


def _values(column: Any) -> Any:
    """A column → something with a Python value a row."""
    if isinstance(column, list):
        return column
    if isinstance(column, np.ndarray):
        return [_text(item) if isinstance(item, bytes) else item for item in column.tolist()]
    return column.to_pylist()


def _array(name: str, column: Any) -> Array:
    array = column if isinstance(column, np.ndarray) else np.array(_values(column))
    if array.dtype.kind == "O":
        raise DataError(
            f"the kept column '{name}' holds values that no array of NumPy can.",
            hint="write to .parquet or .jsonl",
        )
    return array


def _plain(array: Array) -> Array:
    """Text of any length → text of the longest one's, so that nothing is pickled."""
    if array.dtype.kind != "O":
        return array
    return np.array([_text(item) for item in array.flat], dtype=np.str_).reshape(array.shape)


def _text(item: Any) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Nested answers → (column, cell)."""
    items: Any
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from _flat(f"{name}_{key}" if name else str(key), item)


def other_columns(found: Sequence[str], before: Sequence[str]) -> DataError:
    """The error for answers that no one table can hold."""
    return DataError(
        f"an answer has the columns {', '.join(found)}, and those before it {', '.join(before)}.",
        hint="write to .jsonl",
    )


def other_shape(name: str, found: Sequence[int], before: Sequence[int]) -> DataError:
    """The error for outputs that no one array can hold."""
    return DataError(
        f"output '{name}' has rows of shape {list(found)} after {list(before)}, which one array "
        "cannot hold.",
        hint="write to .jsonl or .parquet",
    )
