"""Rows of several requests as one batch, and the batch's outputs as rows of each request again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from .tensors import Tensors

Key = tuple[Hashable, ...]
"""The inputs' names and shapes without their rows; requests that share it may share a batch."""

_KEPT = 4  # shapes seen lately; dynamic models see many, most of them only once


def key_of(tensors: Tensors) -> Key:
    """What has to be the same for two requests to share a batch; the signature fixes the rest."""
    return tuple([(name, array.shape[1:]) for name, array in tensors.items()])


class Buffers:
    """Memory that one worker's batches are written into, kept from batch to batch."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._kept: dict[Key, Tensors] = {}

    def join(self, parts: Sequence[Tensors], key: Key, rows: int) -> Tensors:
        """All parts as one, each row written once; `rows` is their sum. Valid until the next."""
        first = parts[0]
        if len(parts) == 1:
            # Views of a request's body may lie at any address; kernels want theirs aligned.
            return {
                name: array if array.flags.c_contiguous and array.flags.aligned else array.copy()
                for name, array in first.items()
            }
        if any(array.dtype.hasobject for array in first.values()):
            # Kept buffers would keep the requests' text alive, too.
            return {name: np.concatenate([part[name] for part in parts]) for name in first}
        buffers = self._take(first, key, rows)
        joined = {name: buffer[:rows] for name, buffer in buffers.items()}
        for name, array in joined.items():
            np.concatenate([part[name] for part in parts], out=array)
        return joined

    def _take(self, first: Tensors, key: Key, rows: int) -> Tensors:
        """The buffers of that key, grown to hold `rows`; those used longest ago are let go."""
        buffers = self._kept.pop(key, None)
        if buffers is None or len(next(iter(buffers.values()))) < rows:
            capacity = min(self._max_batch, 1 << (rows - 1).bit_length())
            buffers = {
                name: np.empty((capacity, *array.shape[1:]), array.dtype)
                for name, array in first.items()
            }
        self._kept[key] = buffers  # the last one in is the last one out
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return buffers


def split(outputs: object, counts: Sequence[int]) -> list[Tensors]:
    """The outputs of each request, as views. Raises where they are not as many rows.

    One request alone gets all there is: an output without a batch dimension is its own, too.
    """
    if not isinstance(outputs, dict):
        raise TypeError(f"the engine returned {type(outputs).__name__}, not outputs by name")
    if len(counts) == 1:
        return [outputs]
    rows = sum(counts)
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            got = array.shape[0] if array.ndim else "no"
            raise ValueError(f"output '{name}' has {got} rows for a batch of {rows}")
    parts = []
    start = 0
    for count in counts:
        end = start + count
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts
