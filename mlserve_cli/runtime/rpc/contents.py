"""Typed contents, the elements of a tensor in a field of their datatype ↔ arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import InvalidRequest
from ..protocols.json_tensors import reshape
from ..protocols.oip_messages import InferInput
from ..tensors import DATATYPES, Array
from . import packed

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the elements of each datatype are. FP16 and BF16 can only be sent raw."""

_WIDER = {"INT8": np.int32, "INT16": np.int32, "UINT8": np.uint32, "UINT16": np.uint32}


def decode(item: InferInput, contents: Any) -> Array:
    """The array of an input. Raises `InvalidRequest`."""
    field = FIELDS.get(item.datatype)
    if field is None:
        raise InvalidRequest(
            f"input '{item.name}' is {item.datatype}, which has no typed contents",
            hint="send all inputs in raw_input_contents",
        )
    for filled, _ in contents.ListFields():
        if filled.name != field:
            raise InvalidRequest(
                f"input '{item.name}' is {item.datatype}, so its contents must be in '{field}', "
                f"and there are some in '{filled.name}'"
            )
    values = getattr(contents, field)
    count = math.prod(item.shape)
    if len(values) != count:
        raise InvalidRequest(
            f"unexpected number of elements {len(values)} for input '{item.name}', expecting "
            f"{count} for shape {item.shape}"
        )
    dtype = DATATYPES[item.datatype]
    array: Array
    if item.datatype == "BYTES":
        array = np.empty(count, dtype=np.object_)
        array[:] = list(values)
    elif item.datatype in _WIDER:
        array = _narrowed(np.fromiter(values, _WIDER[item.datatype], count), item, dtype)
    elif packed.is_array(dtype):
        array = packed.read(contents, field, dtype, count)
    else:
        array = np.fromiter(values, dtype, count)
    return reshape(array, item)


def _narrowed(wide: Array, item: InferInput, dtype: np.dtype[Any]) -> Array:
    """INT8 travels as 32 bits, and what does not fit must not be cut off."""
    array = wide.astype(dtype)
    wrong = array != wide
    if wrong.any():
        limits = np.iinfo(dtype)
        raise InvalidRequest(
            f"input '{item.name}' holds {wide[wrong][0]}, and {item.datatype} goes from "
            f"{limits.min} to {limits.max}"
        )
    return array


def encode(contents: Any, datatype: str, array: Array) -> None:
    """Put the elements of an output into the field of its datatype, which must have one."""
    if packed.is_array(array.dtype):
        packed.write(contents, FIELDS[datatype], array)
        return
    values = array.ravel().tolist()
    if datatype == "BYTES":
        values = [item if isinstance(item, bytes) else str(item).encode() for item in values]
    getattr(contents, FIELDS[datatype]).extend(values)
