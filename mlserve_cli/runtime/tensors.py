"""The vocabulary that everything in the runtime speaks: tensors, their types and signatures.

Data types carry the names of the Open Inference Protocol (version 2, "Tensor Data Types"), in
memory they are NumPy arrays. `BYTES` is an object array whose elements are `bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
"""Name → array. The first dimension of every array is the batch, the same for all of them."""

DATATYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_BY_CHARACTER = {dtype.char: name for name, dtype in DATATYPES.items()}


def datatype_of(array: Array) -> str:
    """The protocol's name for an array's dtype; text and bytes arrays are `BYTES`."""
    dtype = array.dtype
    name = _BY_CHARACTER.get(dtype.char)  # which says nothing of the byte order
    if name is not None:
        return name
    if dtype.kind in "SUT":
        return "BYTES"
    return _NAMES[dtype.newbyteorder("=")]


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model.

    `shape` holds sizes, and names where a size may differ: `("batch", 3, 224, 224)`. A name that
    stands twice, also in another tensor of the same model, means the same size. The first
    dimension is the batch wherever it is a name; a model whose first dimension is a number takes
    exactly that many rows.
    """

    name: str
    datatype: str
    shape: tuple[int | str, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of this tensor in memory."""
        return DATATYPES[self.datatype]

    @property
    def wire_shape(self) -> list[int]:
        """The shape as the protocols print it: -1 where a size may differ."""
        return [size if isinstance(size, int) else -1 for size in self.shape]

    @property
    def has_batch(self) -> bool:
        """Whether the first dimension is a batch of any size."""
        return bool(self.shape) and isinstance(self.shape[0], str)


def fixed_batch(inputs: tuple[TensorSpec, ...]) -> int | None:
    """The number of rows that a model takes, where it takes only one number of them."""
    sizes = [spec.shape[0] for spec in inputs if spec.shape]
    return max((size for size in sizes if isinstance(size, int)), default=None)


def whole_only(inputs: Sequence[TensorSpec]) -> bool:
    """Whether a request can't be cut into rows: its inputs' first dimensions differ in kind.

    So it is with a state that has its layers first, or a sampling rate that is one number.
    """
    firsts = {spec.shape[0] if spec.shape else None for spec in inputs}
    return len(firsts) > 1 and not all(isinstance(first, str) for first in firsts)


def rows(tensors: Tensors) -> int:
    """The number of rows: the first dimension that all tensors share (1 for a scalar)."""
    for array in tensors.values():
        return int(array.shape[0]) if array.ndim else 1
    return 0


def check(specs: tuple[TensorSpec, ...], tensors: Tensors, *, model: str) -> None:
    """Refuse tensors that do not fit a signature: names, dtypes, ranks, sizes, equal batch.

    Raises `InvalidRequest` with the input, the value and what is allowed.
    """
    if len(tensors) != len(specs):
        raise _other_inputs(specs, tensors, model)
    sizes: dict[str, int] = {}
    for spec in specs:
        array = tensors.get(spec.name)
        if array is None:
            raise _other_inputs(specs, tensors, model)
        dtype = DATATYPES[spec.datatype]
        if array.dtype is not dtype and array.dtype != dtype:  # mostly it is the very same
            raise InvalidRequest(
                f"inference input '{spec.name}' data-type is '{datatype_of(array)}', "
                f"but model '{model}' expects '{spec.datatype}'"
            )
        shape = array.shape
        if len(shape) != len(spec.shape):
            raise _unexpected_shape(spec, array, model)
        for size, allowed in zip(shape, spec.shape):  # noqa: B905 - it costs a third of the loop
            if size == allowed:
                continue
            if isinstance(allowed, int):
                raise _unexpected_shape(spec, array, model)
            if sizes.setdefault(allowed, size) != size:
                raise InvalidRequest(
                    f"input '{spec.name}' of model '{model}' has {size} where '{allowed}' "
                    f"is {sizes[allowed]} in another place; they must be equal"
                )
        if shape and shape[0] == 0:
            raise InvalidRequest(f"input '{spec.name}' of model '{model}' has no rows")


def _other_inputs(specs: tuple[TensorSpec, ...], tensors: Tensors, model: str) -> InvalidRequest:
    for name in tensors:
        check_name(specs, name, model=model)
    names = ", ".join(repr(spec.name) for spec in specs)
    return InvalidRequest(
        f"expected {len(specs)} inputs but got {len(tensors)} inputs for model '{model}'",
        hint=f"its inputs are {names}",
    )


def check_name(specs: tuple[TensorSpec, ...], name: str, *, model: str) -> None:
    """Refuse the name of an input that the model does not have. Raises `InvalidRequest`."""
    for spec in specs:
        if spec.name == name:
            return
    names = ", ".join(repr(spec.name) for spec in specs)
    raise InvalidRequest(
        f"unexpected inference input '{name}' for model '{model}'",
        hint=f"its inputs are {names}",
    )


def _unexpected_shape(spec: TensorSpec, array: Array, model: str) -> InvalidRequest:
    expected = ",".join(map(str, spec.wire_shape))
    got = ",".join(map(str, array.shape))
    return InvalidRequest(
        f"unexpected shape for input '{spec.name}' for model '{model}'. "
        f"Expected [{expected}], got [{got}]."
    )
