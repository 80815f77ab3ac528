"""Rows of several requests as one batch, and the batch's outputs as rows of each request again."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .tensors import Tensors, TensorSpec, whole_only

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


@dataclass(frozen=True, slots=True)
class Promise:
    """What an engine's answer to a batch has to be.

    names: of the outputs. rowed: those of them that have a row for each row of the inputs.
    """

    names: frozenset[str]
    rowed: frozenset[str]

    @classmethod
    def of(cls, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Promise:
        """What a signature promises: an output whose first dimension is called as the inputs'."""
        batch = (
            set() if whole_only(inputs) else {each.shape[0] for each in inputs if each.has_batch}
        )
        return cls(
            frozenset(spec.name for spec in outputs),
            frozenset(spec.name for spec in outputs if spec.shape and spec.shape[0] in batch),
        )


def split(outputs: object, counts: Sequence[int], promise: Promise | None = None) -> list[Tensors]:
    """The outputs of each request, as views. Raises where they are not what was promised.

    One request alone gets all there is: an output without a batch dimension is its own, too.
    """
    if not isinstance(outputs, dict):
        raise TypeError(f"the engine returned {type(outputs).__name__}, not outputs by name")
    if promise is not None and outputs.keys() != promise.names:
        raise ValueError(
            f"the engine returned outputs {_listed(outputs)}, and the model's are "
            f"{_listed(promise.names)}"
        )
    alone = len(counts) == 1
    if alone and promise is None:
        return [outputs]
    rows = sum(counts)
    for name in promise.rowed if alone and promise is not None else outputs:
        _check_rows(name, outputs[name], rows)
    if alone:
        return [outputs]
    parts = []
    start = 0
    for count in counts:
        end = start + count
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts


def _check_rows(name: str, array: object, rows: int) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"output '{name}' is of type {type(array).__name__}, not an array")
    if array.ndim == 0 or array.shape[0] != rows:
        got = array.shape[0] if array.ndim else "no"
        raise ValueError(f"output '{name}' has {got} rows for a batch of {rows}")


def _listed(names: Iterable[object]) -> str:
    return ", ".join(sorted(repr(name) for name in names)) or "(none)"
