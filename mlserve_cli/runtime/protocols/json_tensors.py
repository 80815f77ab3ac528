"""Tensors as JSON: nested or flat lists in row-major order ↔ arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import InvalidRequest
from ..processing.cells import DEPTH, to_array
from ..tensors import DATATYPES, Array
from .oip_messages import InferInput

_COUNT = "Unable to parse 'data': Shape does not match true shape of 'data' field"
_LARGEST = 2**63 - 1  # what a dimension can be in ONNX and in NumPy
_FEW = 64  # up to here Python's own loop is faster than NumPy's two calls


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
    if any(not 0 <= size <= _LARGEST for size in item.shape):
        raise InvalidRequest(
            f"invalid shape {item.shape} for input '{item.name}': "
            "sizes cannot be negative, or larger than 2^63 - 1"
        )


def decode(item: InferInput) -> Array:
    """The array of an input whose data is in the JSON. Raises `InvalidRequest`."""
    if not isinstance(item.data, list):
        raise InvalidRequest(f"the data of input '{item.name}' must be a list")
    array = to_array(item.data, item.datatype, where=f"input '{item.name}'")
    shape = tuple(item.shape)
    if array.shape == shape:
        return array
    # Python's integers do not overflow: a shape whose product passes 2^64 is only wrong.
    if array.size != math.prod(shape) or (array.ndim != 1 and array.size):
        raise InvalidRequest(f"{_COUNT}", hint=f"input '{item.name}' has shape {item.shape}")
    return reshape(array, item)


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
    flat = array.ravel()
    if array.dtype.kind == "O":
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
    if array.dtype.kind != "f":
        return values, True
    if len(values) <= _FEW:
        return values, all(map(math.isfinite, values))
    return values, bool(np.isfinite(flat).all())
