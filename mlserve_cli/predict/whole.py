"""All parts of a job as one file: grown while later parts are written, so that the end is short."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlserve_cli.predict.answers import other_shape
from mlserve_cli.predict.parts import Columns, csv_header, decoded, repeated

GROWING = ("csv", "jsonl", "parquet", "arrow")
"""Formats to which rows can be appended; the others are put together at the end."""

_CHUNK_BYTES = 1 << 20
_CHUNK_ROWS = 65_536

_FLUSH_BYTES = 32 << 20
"""After so many the file goes to the disk: all of it at the end would take seconds."""


class Whole:
    """One file that grows part after part. Used by one thread at a time."""

    def __init__(self, path: Path, format: str) -> None:
        self._format = format
        self._path = path
        self._file: BinaryIO | None = None
        self._rows: _TextRows | _ArrowRows | None = None
        self._flushed = 0

    def add(self, part: Path, columns: Columns) -> None:
        """Append the rows of a part. `columns` are the job's."""
        if self._file is None or self._rows is None:
            self._file = self._path.open("wb")
            if self._format in ("csv", "jsonl"):
                self._rows = _TextRows(self._file, columns, header=self._format == "csv")
            else:
                self._rows = _ArrowRows(self._file, columns, parquet=self._format == "parquet")
        self._rows.add(part)
        if self._file.tell() - self._flushed > _FLUSH_BYTES:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._flushed = self._file.tell()

    def finish(self) -> None:
        """Write what stands at the end, and close."""
        if self._file is not None and self._rows is not None:
            self._rows.finish()
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Let go of a file that is not to be finished."""
        if self._file is not None:
            with contextlib.suppress(Exception):
                self.finish()  # writers of Arrow want to be closed before their files
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


class _TextRows:
    """Lines, with the header of the first part alone."""

    def __init__(self, file: BinaryIO, columns: Columns, *, header: bool) -> None:
        self._file = file
        self._header = len(csv_header(columns)) if header and columns else 0
        self._first = True

    def add(self, part: Path) -> None:
        with part.open("rb") as source:
            source.seek(0 if self._first else self._header)
            while chunk := source.read(_CHUNK_BYTES):
                self._file.write(chunk)
        self._first = False

    def finish(self) -> None:
        """All is written."""


class _ArrowRows:
    """Record batches; of Parquet a row group a part."""

    def __init__(self, file: BinaryIO, columns: Columns, *, parquet: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = decoded(str(columns))
        self._parquet = parquet
        self._writer: Any = (
            pq.ParquetWriter(file, schema, use_dictionary=repeated(schema))
            if parquet
            else pa.ipc.new_file(file, schema)
        )

    def add(self, part: Path) -> None:
        import pyarrow as pa

        with pa.memory_map(str(part)) as local, pa.ipc.open_file(local) as reader:
            if self._parquet:
                rows = reader.read_all()
                self._writer.write_table(rows, row_group_size=max(1, rows.num_rows))
                return
            for number in range(reader.num_record_batches):
                self._writer.write_batch(reader.get_batch(number))

    def finish(self) -> None:
        self._writer.close()


def assemble_npz(parts: Sequence[Path], file: BinaryIO) -> None:
    """The arrays of all parts, in order, as one archive, in bounded memory: the length of an array
    stands before its rows."""
    with np.load(parts[0], allow_pickle=False) as first:
        names = first.files
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            shape, dtype = _shape(parts, name)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": shape,
                }
                np.lib.format.write_array_header_1_0(member, header)
                for path in parts if shape else parts[:1]:
                    with np.load(path, allow_pickle=False) as part_file:
                        array = part_file[name].astype(dtype, copy=False)
                    for start in range(0, max(1, len(array) if array.ndim else 1), _CHUNK_ROWS):
                        some = array[start : start + _CHUNK_ROWS] if array.ndim else array
                        member.write(np.ascontiguousarray(some).tobytes())


def _shape(parts: Sequence[Path], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array over all parts; text is as long as the longest."""
    count = 0
    shape: tuple[int, ...] = ()
    dtypes: set[np.dtype[Any]] = set()
    for path in parts:
        with np.load(path, allow_pickle=False) as part_file:
            array = part_file[name]
        if dtypes and array.shape[1:] != shape[1:]:
            raise other_shape(name, array.shape[1:], shape[1:])
        shape = array.shape
        dtypes.add(array.dtype)
        count += len(array) if array.ndim else 0
    return (count, *shape[1:]) if shape else (), np.result_type(*dtypes)
