"""Tensors as JSON: nested or flat lists in row-major order ↔ arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from .. import json_text
from ..errors import InvalidRequest
from ..processing.cells import DEPTH, to_array
from ..tensors import DATATYPES, Array
from .oip_messages import InferInput

_COUNT = "Unable to parse 'data': Shape does not match true shape of 'data' field"
_LARGEST = 2**63 - 1  # what a dimension can be in ONNX and in NumPy
_FEW = 64  # up to here Python's own loop is faster than NumPy's two calls

MANY = 1 << 15
"""Elements, from which on an array is written a piece at a time: about a millisecond each."""

_PIECE_BYTES = 256 << 10  # of text that is read at a time

_values = msgspec.json.Decoder(list[Any])


def check_header(item: InferInput) -> None:
    """Refuse a datatype or a shape that no tensor can have."""
    if item.datatype not in DATATYPES:
        raise InvalidRequest(
            f"invalid datatype for input {item.name}",
            hint=f"'{item.datatype}' is none of {', '.join(DATATYPES)}",
        )
    # Multiplying thousands of large sizes would hold the event loop up for minutes.
    if len(item.shape) > DEPTH:
        raise InvalidRequest(
            f"input '{item.name}' has {len(item.shape)} dimensions, and at most {DEPTH} are allowed"
        )
    for size in item.shape:
        if not 0 <= size <= _LARGEST:
            raise InvalidRequest(
                f"invalid shape {item.shape} for input '{item.name}': "
                "sizes cannot be negative, or larger than 2^63 - 1"
            )


def decode(item: InferInput) -> Array:
    """The array of an input whose data is in the JSON. Raises `InvalidRequest`."""
    where = f"input '{item.name}'"
    array = None
    if isinstance(item.data, msgspec.Raw):
        array = _by_pieces(bytes(item.data).strip(), item.datatype, where)
        if array is None:
            item.data = msgspec.json.decode(item.data)
    if array is None:
        if not isinstance(item.data, list):
            raise InvalidRequest(f"the data of {where} must be a list")
        array = to_array(item.data, item.datatype, where=where)
    shape = tuple(item.shape)
    if array.shape == shape:
        return array
    # Python's integers do not overflow: a shape whose product passes 2^64 is only wrong.
    if array.size != math.prod(shape) or (array.ndim != 1 and array.size):
        raise InvalidRequest(f"{_COUNT}", hint=f"input '{item.name}' has shape {item.shape}")
    return reshape(array, item)


def _by_pieces(text: bytes, datatype: str, where: str) -> Array | None:
    """A long list of numbers as an array, never more than a piece of it in one call.

    The parser lets no other thread run before its call is done, so megabytes in one call would
    hold the event loop up from any thread. None where that cannot be done: text, ragged lists.
    """
    if datatype == "BYTES" or not text.startswith(b"["):
        return None
    try:
        parts = [
            to_array(_values.decode(piece), datatype, where=where)
            for piece in _pieces(text, _depth(text))
        ]
    except (msgspec.DecodeError, InvalidRequest):
        return None  # whole, it gets the sentence that it deserves
    if len({part.shape[1:] for part in parts}) > 1:
        return None
    return np.concatenate(parts)


def _depth(text: bytes) -> int:
    """How many lists open before the first value."""
    start = text[: DEPTH * 8].translate(None, b" \t\r\n")
    return len(start) - len(start.lstrip(b"["))


def _pieces(text: bytes, depth: int) -> Iterator[bytes]:
    """A list, cut into shorter ones between its elements.

    The end of a list's element, which is itself a list of lists and so on, is as many brackets as
    it is deep. Where a list is ragged this may cut in the middle of an element, and then neither
    half can be parsed.
    """
    border = b"]" * (depth - 1) + b","
    start, end = 1, len(text) - 1
    while (cut := text.find(border, start + _PIECE_BYTES, end)) >= 0:
        cut += len(border) - 1
        yield b"[%b]" % text[start:cut]
        start = cut + 1
    yield b"[%b]" % text[start:end]


def reshape(array: Array, item: InferInput) -> Array:
    """The array in the input's shape, which has as many elements."""
    try:
        return array.reshape(item.shape)
    except (ValueError, OverflowError) as error:  # [0, 2^70]: no elements, yet no array
        raise InvalidRequest(f"invalid shape {item.shape} for input '{item.name}'") from error


def encode(array: Array, name: str) -> tuple[list[Any], bool]:
    """A flat list of JSON values, and whether all of them are finite.

    Raises `InvalidRequest` where the bytes of a `BYTES` tensor are no text.
    """
    return _listed(array.ravel(), name)


def pieces(array: Array, name: str) -> list[bytes | memoryview]:
    """The same list as JSON text, in pieces that are to be joined, brackets and commas included.

    Each is made in a millisecond or so; see `_by_pieces`. Raises what `encode` raises.
    """
    flat = array.ravel()
    found: list[bytes | memoryview] = [b"["]
    for start in range(0, flat.size, MANY):
        values, finite = _listed(flat[start : start + MANY], name)
        text = json_text.encode(values, finite=finite)
        found += (memoryview(text)[1:-1], b",")
    found[-1] = b"]"
    return found


def _listed(flat: Array, name: str) -> tuple[list[Any], bool]:
    if flat.dtype.kind == "O":
        try:
            return [
                item.decode("utf-8") if isinstance(item, bytes) else str(item)
                for item in flat.tolist()
            ], True
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"output '{name}' holds bytes that are no UTF-8, which JSON cannot carry",
                hint='ask for it as binary: "parameters": {"binary_data": true}',
            ) from error
    values = flat.tolist()
    if flat.dtype.kind != "f":
        return values, True
    if len(values) <= _FEW:
        return values, all(map(math.isfinite, values))
    return values, bool(np.isfinite(flat).all())
