"""The processing steps that need no code: arrays → one array, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import PackageError
from ..tensors import DATATYPES, Array
from .declaration import OperationStep

Operation = Callable[[Sequence[Array]], Array]


def build(step: OperationStep) -> Operation:
    """What carries a step out. Raises `PackageError` for an operation or parameters that it cannot.

    What is computed in floating point stays in the datatype of its inputs.
    """
    make = OPERATIONS.get(step.operation)
    if make is None:
        raise PackageError(
            f"step '{step.name}' is the operation '{step.operation}', which does not exist.",
            hint=f"it can be {', '.join(OPERATIONS)}, or a function of your own",
        )
    if not step.inputs:
        raise PackageError(f"step '{step.name}' ({step.operation}) has no inputs.")
    if step.operation not in _MANY and len(step.inputs) != 1:
        raise PackageError(
            f"step '{step.name}' ({step.operation}) takes one input, and has {len(step.inputs)}.",
            hint=f"{' and '.join(_MANY)} take several",
        )
    if step.axis == 0:
        raise PackageError(
            f"step '{step.name}' ({step.operation}) works along axis 0, which are the rows.",
            hint="strangers share a batch, so an answer may depend on its own row alone",
        )
    return make(step)


def _softmax(step: OperationStep) -> Operation:
    def softmax(arrays: Sequence[Array]) -> Array:
        (array,) = arrays
        with np.errstate(invalid="ignore", over="ignore"):  # of NaN and infinities in a row
            shares: Array = np.exp(array - array.max(axis=step.axis, keepdims=True))
            shares /= shares.sum(axis=step.axis, keepdims=True)
        return shares

    return softmax


def _argmax(step: OperationStep) -> Operation:
    return lambda arrays: arrays[0].argmax(axis=step.axis).astype(np.int64, copy=False)


def _mean(step: OperationStep) -> Operation:
    weights = step.weights or (1.0,) * len(step.inputs)
    if len(weights) != len(step.inputs):
        raise PackageError(
            f"step '{step.name}' (mean) has {len(weights)} weights for {len(step.inputs)} inputs."
        )
    total = sum(weights)
    equal = len(set(weights)) == 1
    if not math.isfinite(total) or min(weights) < 0 or total <= 0:
        raise PackageError(
            f"step '{step.name}' (mean) has the weights {', '.join(map(str, weights))}; "
            "they must not be negative, and one of them above 0."
        )

    def mean(arrays: Sequence[Array]) -> Array:
        if len({array.shape for array in arrays}) > 1:  # they would be stretched to fit
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise TypeError(f"the tensors have different shapes: {shapes}")
        kind = arrays[0].dtype.type
        with np.errstate(invalid="ignore", over="ignore"):
            if equal:  # as one would by hand, and a third of the work
                found: Array = sum(arrays[1:], start=arrays[0])
            else:
                found = arrays[0] * kind(weights[0])
                for array, weight in zip(arrays[1:], weights[1:], strict=True):
                    found += array * kind(weight)
            shared: Array = np.divide(found, kind(len(arrays) if equal else total))
        return shared

    return mean


def _concat(step: OperationStep) -> Operation:
    return lambda arrays: np.concatenate(arrays, axis=step.axis)


def _cast(step: OperationStep) -> Operation:
    if step.datatype is None or step.datatype not in DATATYPES or step.datatype == "BYTES":
        numbers = ", ".join(name for name in DATATYPES if name != "BYTES")
        raise PackageError(
            f"step '{step.name}' casts to the datatype '{step.datatype}'; it can be {numbers}."
        )
    dtype = DATATYPES[step.datatype]

    def cast(arrays: Sequence[Array]) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):  # NaN is no whole number
            return arrays[0].astype(dtype, copy=False)

    return cast


def _reshape(step: OperationStep) -> Operation:
    shape = step.shape
    if shape is None or any(size < -1 or size == 0 for size in shape) or shape.count(-1) > 1:
        raise PackageError(
            f"step '{step.name}' reshapes to {'nothing' if shape is None else list(shape)}.",
            hint="shape = [3, -1] is that of one row; -1, once, stands for what is left",
        )

    def reshape(arrays: Sequence[Array]) -> Array:
        (array,) = arrays
        count = len(array)
        if -1 not in shape or count:
            return array.reshape(count, *shape)
        return array.reshape(0, *(0 if size == -1 else size for size in shape))

    return reshape


OPERATIONS: Mapping[str, Callable[[OperationStep], Operation]] = {
    "mean": _mean,
    "softmax": _softmax,
    "argmax": _argmax,
    "concat": _concat,
    "cast": _cast,
    "reshape": _reshape,
}
_MANY = ("mean", "concat")
