"""Nested lists of JSON values → an array of one datatype, strictly: nothing is guessed or lost.

Left to itself NumPy turns "1.5" and null into numbers without a word, and a list with one long
string into an array as wide as that string for every element. So the types are looked at first.
"""

from __future__ import annotations

import struct
from array import array
from itertools import chain
from typing import Any

import numpy as np

from ..errors import InvalidRequest
from ..tensors import DATATYPES, Array

_MANY = 256  # leaves, from which on the faster way is faster
DEPTH = 32  # NumPy's arrays had at most so many dimensions for decades; no model needs more

_PACKED = {
    "INT8": "b", "UINT8": "B", "INT16": "h", "UINT16": "H", "INT32": "i", "UINT32": "I",
    "INT64": "q", "UINT64": "Q", "FP32": "f", "FP64": "d",
}  # fmt: skip
"""As `struct` calls them; it refuses what is out of range, and is quicker for a few numbers."""

_ALLOWED: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "u": (frozenset({int}), "whole numbers"),
    "i": (frozenset({int}), "whole numbers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "strings"),
}


def to_array(data: Any, datatype: str, *, where: str) -> Array:
    """Convert; the shape is the lists' own, () for a bare value.

    `where` names the place in errors. Raises `InvalidRequest` for ragged lists, values of another
    kind (text for numbers, fractions for integers, null), and numbers out of the datatype's range.
    """
    dtype = DATATYPES[datatype]
    if type(data) is list and len(data) <= _MANY and (code := _PACKED.get(datatype)) is not None:
        found = _packed(data, code, dtype)
        if found is not None:
            return found
    shape, flat = flatten(data, where=where)
    try:
        with np.errstate(over="raise"):
            if dtype.kind == "f" and len(flat) > _MANY and (found := _numbers(flat)) is not None:
                return found.astype(dtype).reshape(shape)
            _check_types(flat, dtype, datatype, where)
            if dtype.kind == "O":
                texts: Array = np.empty(len(flat), dtype=dtype)
                texts[:] = [to_bytes(item, where=where) for item in flat]
                return texts.reshape(shape)
            return np.array(flat, dtype=dtype).reshape(shape)
    except (OverflowError, FloatingPointError) as error:
        limits = np.iinfo(dtype) if dtype.kind in "ui" else np.finfo(dtype)
        raise InvalidRequest(
            f"the data of {where} holds numbers that do not fit {datatype}",
            hint=f"they may be from {limits.min} to {limits.max}",
        ) from error


def _packed(data: list[Any], code: str, dtype: np.dtype[Any]) -> Array | None:
    """A short flat list of numbers; None for everything else, which is looked at more closely."""
    if not set(map(type, data)) <= _ALLOWED[dtype.kind][0]:
        return None
    try:
        return np.frombuffer(struct.pack(f"={len(data)}{code}", *data), dtype)
    except (struct.error, OverflowError):
        return None


def flatten(data: Any, *, where: str) -> tuple[list[int], list[Any]]:
    """The shape of nested lists, and their leaves in row-major order. Raises `InvalidRequest`."""
    if not isinstance(data, list):
        return [], [data]
    shape = [len(data)]
    level = data
    while level and type(level[0]) is list:
        if set(map(type, level)) != {list}:
            raise InvalidRequest(f"the data of {where} is ragged: lists stand beside values")
        sizes = set(map(len, level))
        if len(sizes) != 1:
            raise InvalidRequest(
                f"the data of {where} is ragged",
                hint="lists at one depth must all be of the same length",
            )
        if len(shape) == DEPTH:
            raise InvalidRequest(f"the data of {where} is nested deeper than {DEPTH} lists")
        shape.append(sizes.pop())
        level = list(chain.from_iterable(level))
    return shape, level


def _numbers(flat: list[Any]) -> Array | None:
    """Many leaves as float64, three times as fast as with a look at the type of each.

    None where one is no number, or is true or false, which Python takes for 1 and 0.
    """
    try:
        found = np.frombuffer(array("d", flat), np.float64)
    except (TypeError, OverflowError):
        return None
    places = np.flatnonzero((found == 0) | (found == 1))
    few = len(places) * 4 < len(flat)
    suspects = [flat[place] for place in places.tolist()] if few else flat
    return None if bool in set(map(type, suspects)) else found


def _check_types(flat: list[Any], dtype: np.dtype[Any], datatype: str, where: str) -> None:
    types = set(map(type, flat))
    allowed, meaning = _ALLOWED[dtype.kind]
    if types <= allowed:
        return
    if list in types:
        raise InvalidRequest(f"the data of {where} is ragged: lists stand beside values")
    raise InvalidRequest(f"the data of {where} must be {meaning} ({datatype})")


def to_bytes(text: str, *, where: str) -> bytes:
    """UTF-8. Raises `InvalidRequest` for half a surrogate pair, which is no text."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{where} holds text that is no Unicode: {error.reason}") from error
