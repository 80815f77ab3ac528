"""Arrays as a file holds them → arrays as the model's signature wants them, losing nothing."""

from __future__ import annotations

import numpy as np

from mlserve_cli.errors import DataError
from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Array, Tensors, TensorSpec, check, datatype_of


def fit(tensors: Tensors, manifest: Manifest, *, where: str) -> Tensors:
    """Cast every input to its datatype and check names and shapes.

    A model with a fixed first dimension gets rows here as any other; whoever runs it makes
    batches of its size. Raises `DataError` beginning with `where`.
    """
    specs = {spec.name: spec for spec in manifest.inputs}
    cast = {
        name: _cast(array, specs[name], where) if name in specs else array
        for name, array in tensors.items()
    }
    free = tuple(
        TensorSpec(spec.name, spec.datatype, ("batch", *spec.shape[1:])) if spec.shape else spec
        for spec in manifest.inputs
    )
    try:
        check(free, cast, model=manifest.name)
    except InvalidRequest as error:
        raise DataError(
            f"{where} do not fit the model: {error.message.removesuffix('.')}.", hint=error.hint
        ) from error
    return cast


def _cast(array: Array, spec: TensorSpec, where: str) -> Array:
    if array.dtype == spec.dtype:
        return array
    if spec.datatype == "BYTES":
        if array.dtype.kind not in "SUOT":
            raise DataError(
                f"{where}: input '{spec.name}' is text, and the data is {datatype_of(array)}."
            )
        flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
        raw: Array = np.empty(len(flat), dtype=np.object_)
        raw[:] = flat
        return raw.reshape(array.shape)
    # Wider floats are narrowed, integers become floats; never floats integers, never text numbers.
    whole = array.dtype.kind in "iu" and spec.dtype.kind in "iu"  # decided by the values, below
    numeric = array.dtype.kind in "biuf"
    if not numeric or not (whole or np.can_cast(array.dtype, spec.dtype, "same_kind")):
        raise DataError(
            f"{where}: input '{spec.name}' is {spec.datatype}, and {array.dtype} would lose "
            "something on the way."
        )
    if spec.dtype.kind in "iu" and array.size:
        limits = np.iinfo(spec.dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise DataError(
                f"{where}: input '{spec.name}' goes from {limits.min} to {limits.max}, and the "
                f"data from {array.min()} to {array.max()}."
            )
    return array.astype(spec.dtype)
