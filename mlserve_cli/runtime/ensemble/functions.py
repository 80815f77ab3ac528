"""A function of the user's own between two members: arrays in, a dict of arrays out.

    def crop(image, boxes):                      # parameters are the step's inputs
        return {"crops": …, "owner": …}          # keys are the step's outputs

The number of rows may change from step to step, as long as the ensemble's outputs have those of the
batch again. A `ValueError` is told to the client as status 400, as in `processing.py`; anything
else is a server error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InvalidRequest, PackageError
from ..processing.python import load_module
from ..tensors import DATATYPES, Array, Tensors
from .declaration import FUNCTIONS, FunctionStep

_DTYPES = frozenset(DATATYPES.values())


class Function:
    """One function, loaded."""

    def __init__(self, step: FunctionStep, serve: Path) -> None:
        self._step = step
        path = serve / FUNCTIONS / step.file
        function = getattr(load_module(path), step.function, None)
        if not callable(function):
            raise PackageError(f"'{path}' has no function {step.function}().")
        self._function = function

    def run(self, inputs: Tensors) -> Tensors:
        """Arrays by parameter → arrays by key. They are shared, so the function may only read."""
        try:
            found = self._function(**{name: _frozen(array) for name, array in inputs.items()})
        except ValueError as error:
            raise InvalidRequest(f"the request was refused: {error}") from error
        name = f"{self._step.function}()"
        if not isinstance(found, dict):
            raise TypeError(f"{name} returned {type(found).__name__}, not a dict of arrays")
        missing = self._step.outputs.keys() - found.keys()
        if missing:
            returned = ", ".join(map(str, found)) or "nothing"
            raise TypeError(f"{name} returned {returned}, and no '{min(missing)}'")
        return {key: self._array(key, found[key]) for key in self._step.outputs}

    def _array(self, key: str, value: object) -> Array:
        array = np.asarray(value)
        if array.dtype.kind in "SU":
            flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
            raw = np.empty(len(flat), dtype=np.object_)
            raw[:] = flat
            return raw.reshape(array.shape)
        if array.dtype not in _DTYPES:
            raise TypeError(
                f"'{key}', which {self._step.function}() returned, is of the dtype {array.dtype}; "
                f"it can be {', '.join(sorted(str(dtype) for dtype in _DTYPES))}"
            )
        return array


def _frozen(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
