"""Rows as people give them, in the dtypes of a model's signature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlserve_cli.runtime.tensors import Tensors, TensorSpec


def cast(tensors: Tensors, specs: Sequence[TensorSpec]) -> Tensors:
    """The inputs that `specs` name, in its order and dtypes, where nothing is lost by that.

    float64 is NumPy's default, and no mistake for a float32 model; floats for a whole-number input
    are one, and stay as they are for `runtime.tensors.check` to refuse.
    """
    cast = {}
    for spec in specs:
        if spec.name not in tensors:
            continue
        array = tensors[spec.name]
        fits = array.dtype == spec.dtype or not np.can_cast(array.dtype, spec.dtype, "same_kind")
        cast[spec.name] = array if fits else array.astype(spec.dtype)
    return cast
