"""Floats of a message as the bytes that they are on the wire, without a Python object for each.

A repeated field of numbers is packed: its tag, the length of what follows, and the elements one
after the other (Protocol Buffers, "Encoding", "Packed Repeated Fields"). Floats have a fixed width
there and little-endian order, and a bool takes one byte, so such a field is an array already. A
million of them one by one would hold the event loop up for a tenth of a second.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tensors import Array

_LENGTH_DELIMITED = 2  # the wire type of what begins with its length


def is_array(dtype: np.dtype[Any]) -> bool:
    """Whether elements of that type, in a field of their own, lie on the wire as in memory."""
    return dtype.kind == "b" or (dtype.kind == "f" and dtype.itemsize > 2)


def read(message: Any, field: str, dtype: np.dtype[Any], count: int) -> Array:
    """The `count` elements of a field as an array of `dtype`, which `is_array`; it may be a view.

    The field stands last where nothing behind it is set; else its elements are read one by one.
    """
    size = count * dtype.itemsize
    text = message.SerializeToString()
    start = len(text) - size
    if count and text[:start].endswith(_head(message, field, size)):
        return np.frombuffer(text, dtype.newbyteorder("<"), count, start).astype(dtype, copy=False)
    return np.fromiter(getattr(message, field), dtype, count)


def write(message: Any, field: str, array: Array) -> None:
    """Put the elements of an array, whose dtype `is_array`, into a field that is empty."""
    if array.size:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        message.MergeFromString(_head(message, field, little.nbytes) + little.tobytes())


def _head(message: Any, field: str, size: int) -> bytes:
    number = message.DESCRIPTOR.fields_by_name[field].number
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the highest bit set."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
