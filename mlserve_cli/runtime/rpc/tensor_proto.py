"""TensorFlow's `TensorProto` ↔ arrays (tensorflow/core/framework/tensor.proto).

Elements are in the field of their type, or as bytes in `tensor_content`; fewer elements than the
shape has mean that the last one repeats. Answers use the field of their type, as TensorFlow
Serving's do, since clients read `float_val`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import InvalidRequest
from ..protocols.tensorflow_status import DTYPES
from ..tensors import DATATYPES, Array, TensorSpec, datatype_of
from . import packed
from .schema import pool

_ENUM = pool.FindEnumTypeByName("tensorflow.DataType")
_NUMBERS = {datatype: _ENUM.values_by_name[name].number for datatype, name in DTYPES.items()}
_DATATYPES = {number: datatype for datatype, number in _NUMBERS.items()}
_FIELDS = {
    "BOOL": "bool_val",
    "UINT8": "int_val",
    "UINT16": "int_val",
    "UINT32": "uint32_val",
    "UINT64": "uint64_val",
    "INT8": "int_val",
    "INT16": "int_val",
    "INT32": "int_val",
    "INT64": "int64_val",
    "FP16": "half_val",
    "FP32": "float_val",
    "FP64": "double_val",
    "BYTES": "string_val",
}
_LARGEST = 2**63 - 1
_DIMENSIONS = 64  # what NumPy can hold


def number_of(datatype: str) -> int:
    """The number of a datatype in TensorFlow's enumeration."""
    return int(_NUMBERS[datatype])


def decode(name: str, tensor: Any, *, limit_bytes: int) -> Array:
    """The array of an input. Raises `InvalidRequest`.

    limit_bytes: that it may take, since a few bytes can stand for a tensor of any size.
    """
    datatype = _DATATYPES.get(tensor.dtype)
    if datatype is None:
        known = _ENUM.values_by_number.get(tensor.dtype)
        raise InvalidRequest(
            f"input '{name}' is {known.name if known else tensor.dtype}, which is not served",
            hint=f"it can be {', '.join(DTYPES.values())}",
        )
    shape = _shape(name, tensor.tensor_shape)
    count = math.prod(shape)
    dtype = DATATYPES[datatype]
    if tensor.tensor_content:
        return _from_bytes(name, tensor.tensor_content, datatype, shape)
    values = getattr(tensor, _FIELDS[datatype])
    if len(values) > count or (count and not values):
        raise InvalidRequest(
            f"input '{name}' of shape {shape} must have {count} elements, and "
            f"'{_FIELDS[datatype]}' has {len(values)}"
        )
    if len(values) < count and count * dtype.itemsize > limit_bytes:
        raise InvalidRequest(
            f"input '{name}' of shape {shape} would take {count * dtype.itemsize} bytes, and at "
            f"most {limit_bytes} are allowed"
        )
    if packed.is_array(dtype):
        array = packed.read(tensor, _FIELDS[datatype], dtype, len(values))
    else:
        array = _elements(name, values, datatype)
    if len(values) < count:
        array = np.concatenate([array, np.repeat(array[-1:], count - len(values))])
    return array.reshape(shape)


def _shape(name: str, shape: Any) -> list[int]:
    if shape.unknown_rank or len(shape.dim) > _DIMENSIONS:
        raise InvalidRequest(f"the shape of input '{name}' must have 0 to {_DIMENSIONS} dimensions")
    sizes = [dim.size for dim in shape.dim]
    if any(size < 0 for size in sizes) or math.prod(sizes) > _LARGEST:
        raise InvalidRequest(f"input '{name}' cannot have the shape {sizes}")
    return sizes


def _from_bytes(name: str, body: bytes, datatype: str, shape: list[int]) -> Array:
    if datatype == "BYTES":
        raise InvalidRequest(
            f"input '{name}' is DT_STRING, so its elements must be in 'string_val'"
        )
    dtype = DATATYPES[datatype]
    expected = math.prod(shape) * dtype.itemsize
    if len(body) != expected:
        raise InvalidRequest(
            f"the tensor_content of input '{name}' of shape {shape} must have {expected} bytes, "
            f"and it has {len(body)}"
        )
    if datatype == "BOOL":
        dtype = np.dtype(np.uint8)
    array: Array = np.frombuffer(body, dtype).reshape(shape)
    # Any byte but 0 and 1 would be a bool that NumPy and the engine read differently.
    return array != 0 if datatype == "BOOL" else array


def _elements(name: str, values: Any, datatype: str) -> Array:
    dtype = DATATYPES[datatype]
    if datatype == "BYTES":
        array: Array = np.empty(len(values), dtype=np.object_)
        array[:] = list(values)
        return array
    if datatype == "FP16":
        return _fitting(name, np.fromiter(values, np.int32, len(values)), np.dtype(np.uint16)).view(
            np.float16
        )
    if _FIELDS[datatype] == "int_val":
        return _fitting(name, np.fromiter(values, np.int32, len(values)), dtype)
    return np.fromiter(values, dtype, len(values))


def _fitting(name: str, wide: Array, dtype: np.dtype[Any]) -> Array:
    array = wide.astype(dtype)
    wrong = array != wide
    if wrong.any():
        limits = np.iinfo(dtype)
        raise InvalidRequest(
            f"input '{name}' holds {wide[wrong][0]}, and {dtype.name} goes from {limits.min} to "
            f"{limits.max}"
        )
    return array


def encode(tensor: Any, array: Array) -> None:
    """Fill a `TensorProto` with an output."""
    datatype = datatype_of(array)
    tensor.dtype = _NUMBERS[datatype]
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if packed.is_array(array.dtype):
        packed.write(tensor, _FIELDS[datatype], array)
        return
    flat = array.ravel()
    values: list[Any]
    if datatype == "BYTES":
        values = [item if isinstance(item, bytes) else str(item).encode() for item in flat.tolist()]
    elif datatype == "FP16":
        values = flat.view(np.uint16).tolist()
    else:
        values = flat.tolist()
    getattr(tensor, _FIELDS[datatype]).extend(values)


def describe(info: Any, spec: TensorSpec) -> None:
    """Fill a `TensorInfo` with what a model's input or output is."""
    info.name = spec.name
    info.dtype = _NUMBERS[spec.datatype]
    for size, name in zip(spec.wire_shape, spec.shape, strict=True):
        info.tensor_shape.dim.add(size=size, name=name if isinstance(name, str) else "")
