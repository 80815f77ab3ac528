"""Tensors as bytes after the JSON: little-endian, row-major (OIP's binary tensor data extension).

A `BYTES` element is a 4-byte little-endian length and the bytes. Other inputs become views of the
request's body: they may be unaligned and cannot be written to, and the one copy that they ever
get is the one into the batch.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from ..errors import InvalidRequest
from ..tensors import DATATYPES, Array, TensorSpec
from .json_tensors import reshape
from .oip_messages import InferInput

_LENGTH = struct.Struct("<I")

Body = bytes | memoryview
"""Of a request; a view where that saves a copy."""


def header_length(text: bytes, body_bytes: int) -> int:
    """The value of Inference-Header-Content-Length. Raises `InvalidRequest` out of the body."""
    length = int(text) if text.isdigit() and len(text) < 20 else -1
    if not 0 <= length <= body_bytes:
        raise InvalidRequest(
            f"inference header size should be in range (0, {body_bytes}), "
            f"got: {text.decode('latin-1')}"
        )
    return length


def size_of(item: InferInput) -> int | None:
    """The input's `binary_data_size`; None where its data is in the JSON."""
    size = item.parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidRequest(
            f"'binary_data_size' of input '{item.name}' is {size!r}, "
            "and it must be a number of bytes"
        )
    return size


def decode(item: InferInput, body: Body, start: int, size: int) -> Array:
    """The array of an input that takes `size` bytes of `body` from `start` on."""
    missing = start + size - len(body)
    if missing > 0:
        raise InvalidRequest(
            f"unexpected size for input '{item.name}', expecting {missing} additional bytes"
        )
    count = math.prod(item.shape)
    if item.datatype == "BYTES":
        return reshape(_strings(body, start, size, count, item.name), item)
    dtype = DATATYPES[item.datatype]
    if size != count * dtype.itemsize:
        raise InvalidRequest(
            f"unexpected size for input '{item.name}', expecting {count * dtype.itemsize} bytes "
            f"for shape {item.shape} of {item.datatype}, got {size}"
        )
    if dtype.kind == "b":
        # Any byte but 0 and 1 would be a bool that NumPy and the engine read differently.
        return reshape(np.frombuffer(body, np.uint8, count, start) != 0, item)
    return reshape(np.frombuffer(body, dtype, count, start), item)


def _strings(body: Body, start: int, size: int, count: int, name: str) -> Array:
    end = start + size
    if count > size // _LENGTH.size:
        raise InvalidRequest(
            f"unexpected size for input '{name}', expecting "
            f"{count * _LENGTH.size - size} additional bytes"
        )
    array: Array = np.empty(count, dtype=np.object_)
    for index in range(count):
        if start + _LENGTH.size > end:
            raise InvalidRequest(f"unexpected number of string elements {index} for input '{name}'")
        (length,) = _LENGTH.unpack_from(body, start)
        start += _LENGTH.size
        if start + length > end:
            raise InvalidRequest(
                f"unexpected size for input '{name}', expecting {start + length - end} "
                "additional bytes"
            )
        array[index] = bytes(body[start : start + length])
        start += length
    if start != end:
        raise InvalidRequest(
            f"unexpected number of string elements {count + 1} for input '{name}', "
            f"expecting {count}"
        )
    return array


def decode_raw(spec: TensorSpec, body: Body) -> Array:
    """A body that is nothing but the only input, one row of it; one open size is worked out.

    A `BYTES` input takes the whole body as one string.
    """
    if spec.datatype == "BYTES":
        array: Array = np.empty(1, dtype=np.object_)
        array[0] = bytes(body)
        return array.reshape([1] * len(spec.shape))
    shape = [1 if spec.has_batch and axis == 0 else size for axis, size in enumerate(spec.shape)]
    opened = [axis for axis, size in enumerate(shape) if isinstance(size, str)]
    fixed = math.prod(size for size in shape if isinstance(size, int)) * spec.dtype.itemsize
    if len(opened) > 1:
        raise InvalidRequest(
            f"input '{spec.name}' has shape {spec.wire_shape}: "
            "a raw binary request can leave only one size open"
        )
    if len(body) % max(fixed, 1) or (not opened and len(body) != fixed):
        raise InvalidRequest(
            f"unexpected size for input '{spec.name}', expecting {fixed} bytes a row, "
            f"got {len(body)}"
        )
    sizes = [len(body) // max(fixed, 1) if isinstance(size, str) else size for size in shape]
    item = InferInput(spec.name, sizes, spec.datatype)
    return decode(item, body, 0, len(body))


def encode(array: Array) -> bytes:
    """The bytes of an output."""
    if array.dtype.kind == "O":
        parts: list[bytes] = []
        for item in array.flat:
            raw = item if isinstance(item, bytes) else str(item).encode()
            parts += (_LENGTH.pack(len(raw)), raw)
        return b"".join(parts)
    return array.tobytes()
