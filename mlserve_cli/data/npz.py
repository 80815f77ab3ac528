"""NumPy's .npz: an array an input, and one for the targets, all with the same first dimension.

The arrays are read through the archive a few rows at a time. Object arrays are refused: reading
one would run whatever its author wrote.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from mlserve_cli.data import targets
from mlserve_cli.data.batch import Batch
from mlserve_cli.data.fit import fit
from mlserve_cli.data.reading import Reading, Source
from mlserve_cli.errors import DataError
from mlserve_cli.runtime.tensors import Array


@dataclass(slots=True)
class Member:
    """One array of the archive, read from its beginning to its end."""

    name: str
    file: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, count: int) -> Array:
        """The next `count` rows."""
        shape = (count, *self.shape[1:])
        size = int(np.prod(shape)) * self.dtype.itemsize
        raw = self.file.read(size)
        if len(raw) != size:
            raise ValueError(f"array '{self.name}' is cut short")
        return np.frombuffer(raw, dtype=self.dtype).reshape(shape)

    def skip(self, count: int) -> None:
        """Pass over `count` rows."""
        size = count * int(np.prod(self.shape[1:])) * self.dtype.itemsize
        self.file.seek(size, os.SEEK_CUR)


def read(source: Source, reading: Reading) -> Iterator[Batch]:
    """Stream the file's rows. Raises `DataError` naming the array that is missing or wrong."""
    if source.path is None:
        raise DataError(".npz cannot be read from stdin.", hint="give the file's name")
    return _batches(source, reading)


def _batches(source: Source, reading: Reading) -> Iterator[Batch]:
    with source.opened() as file, contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(file))
            members = {
                entry.removesuffix(".npy"): entry
                for entry in archive.namelist()
                if entry.endswith(".npy")
            }
            target = targets.find(members, reading.target, where=source.name)
            if target in [spec.name for spec in reading.manifest.inputs]:
                target = None
            chosen = _choose(list(members), target, source, reading)
            members_of = {
                name: opened(
                    stack.enter_context(archive.open(members[member])), member, source.name
                )
                for name, member in chosen.items()
            }
            wanted = None
            if target is not None and reading.targets:
                wanted = opened(
                    stack.enter_context(archive.open(members[target])), target, source.name
                )
            total = _rows([*members_of.values(), *([wanted] if wanted else [])], source)
            for start in range(0, total, reading.batch):
                count = min(reading.batch, total - start)
                where = f"{source.name}, rows {start + 1} to {start + count}"
                inputs = {name: member.take(count) for name, member in members_of.items()}
                yield Batch(
                    fit(inputs, reading.manifest, where=where),
                    None
                    if wanted is None
                    else targets.from_array(
                        wanted.take(count),
                        reading.manifest.labels,
                        where=source.name,
                        first=start + 1,
                    ),
                )
        except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise DataError(
                f"{source.name} is no whole .npz file: {error}.",
                hint="numpy.savez(FILE, input_name=array, target=array) writes one",
            ) from error


def _choose(
    names: list[str], target: str | None, source: Source, reading: Reading
) -> dict[str, str]:
    """The model's inputs → the arrays that hold them."""
    if not names:
        raise DataError(f"{source.name} is empty: it holds no arrays.")
    inputs = [spec.name for spec in reading.manifest.inputs]
    others = [name for name in names if name != target]
    # One input and one array: whatever it is called, there is nothing else to mean.
    if len(inputs) == 1 and len(others) == 1:
        return {inputs[0]: others[0]}
    for name in inputs:
        if name not in names:
            raise targets.missing(name, names, where=source.name, what="array")
    return {name: name for name in inputs}


def opened(file: IO[bytes], name: str, where: str) -> Member:
    """The array `name` of an archive, at its first row. Raises `DataError` for objects."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else _header_2
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise DataError(
            f"array '{name}' of {where} holds Python objects, which are never unpickled.",
            hint="save text as array.astype('S') or ('U'), and rows of other lengths padded",
        )
    if not shape:
        raise DataError(f"array '{name}' of {where} is a single value, with no rows.")
    if fortran and len(shape) > 1:
        # Its rows do not lie one after the other; this one array is read as a whole.
        size = int(np.prod(shape)) * dtype.itemsize
        whole = np.frombuffer(file.read(size), dtype=dtype).reshape(shape, order="F")
        file = io.BytesIO(np.ascontiguousarray(whole).tobytes())
    return Member(name, file, shape, dtype)


def _header_2(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, fortran, dtype


def _rows(members: list[Member], source: Source) -> int:
    sizes = {member.name: member.shape[0] for member in members}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"'{name}' {size}" for name, size in sizes.items())
        raise DataError(
            f"the arrays of {source.name} have different numbers of rows: {listed}.",
        )
    total = members[0].shape[0]
    if not total:
        raise DataError(f"{source.name} holds no rows.")
    return total
