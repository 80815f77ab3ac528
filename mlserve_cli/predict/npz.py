"""Answers as .npz: the model's outputs by name, as they are."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from mlserve_cli.errors import DataError
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import Processor
from mlserve_cli.runtime.tensors import Array, Tensors


class NpzWriter:
    """Keeps the outputs until the end, for an array's length stands before its rows."""

    def __init__(self, file: BinaryIO, manifest: Manifest, processor: Processor) -> None:
        self._file = file
        self._parts: dict[str, list[Array]] = {}

    def write(self, outputs: Tensors) -> None:
        """Keep a batch. Raises `DataError` when its rows are of another shape."""
        for name, array in outputs.items():
            parts = self._parts.setdefault(name, [])
            if parts and parts[0].shape[1:] != array.shape[1:]:
                raise DataError(
                    f"output '{name}' has rows of shape {list(array.shape[1:])} after "
                    f"{list(parts[0].shape[1:])}, which one array cannot hold.",
                    hint="write to .jsonl",
                )
            if array.ndim or not parts:  # a value without rows is the same for all of them
                parts.append(array)

    def finish(self) -> None:
        """Write the archive."""
        whole = {
            name: _plain(np.concatenate(parts) if parts[0].ndim else parts[0])
            for name, parts in self._parts.items()
        }
        np.savez(self._file, allow_pickle=False, **whole)


def _plain(array: Array) -> Array:
    """Text of any length → text of the longest one's, so that nothing is pickled."""
    if array.dtype.kind != "O":
        return array
    items: list[Any] = [
        item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
        for item in array.flat
    ]
    return np.array(items, dtype=np.str_).reshape(array.shape)
