"""A member of an ensemble, fed as its own package allows."""

from __future__ import annotations

import numpy as np

from ..batch import Promise
from ..engines.engine import Engine
from ..errors import InvalidRequest
from ..manifest import Manifest
from ..tensors import Tensors, TensorSpec, check


class Member:
    """One package, loaded."""

    def __init__(self, engine: Engine, manifest: Manifest) -> None:
        self.engine = engine
        self.manifest = manifest
        fixed = manifest.fixed_batch
        self._limit = fixed or manifest.batch.max_batch
        self._fixed = fixed is not None
        promise = Promise.of(manifest.inputs, manifest.outputs)
        self._names = promise.names
        self._rowed = promise.rowed
        if fixed is not None:
            self._rowed = frozenset(
                spec.name for spec in manifest.outputs if spec.shape and spec.shape[0] == fixed
            )
        self._inputs = free(manifest.inputs) if self._fixed else manifest.inputs

    def run(self, inputs: Tensors, *, untold: bool = False) -> Tensors:
        """Answer any number of rows: at once, or in pieces where the package is run by pieces.

        untold: they come from a function, so nobody knew their shapes before they were there.
        """
        count = rows_of(inputs)
        if not count:
            return self._nothing(inputs)
        if untold:
            try:
                check(self._inputs, inputs, model=self.manifest.name)
            except InvalidRequest as error:  # it is the function's mistake, not the client's
                raise TypeError(error.message) from error
        if self._limit is None or count == self._limit:
            return self._checked(self.engine.run(inputs), count)
        parts = [
            self._piece(_cut(inputs, start, start + self._limit))
            for start in range(0, count, self._limit)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _piece(self, inputs: Tensors) -> Tensors:
        """A few rows; the last one stands in where a fixed batch lacks some."""
        count = rows_of(inputs)
        lacking = (self._limit or count) - count if self._fixed else 0
        if lacking:
            inputs = {
                name: np.concatenate([array, np.repeat(array[-1:], lacking, axis=0)])
                for name, array in inputs.items()
            }
        else:
            inputs = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        found = self._checked(self.engine.run(inputs), count + lacking)
        return {name: array[:count] for name, array in found.items()}

    def _checked(self, outputs: Tensors, count: int) -> Tensors:
        """A user's own engine may return anything."""
        if not isinstance(outputs, dict) or outputs.keys() != self._names:
            got = (
                ", ".join(map(str, outputs))
                if isinstance(outputs, dict)
                else type(outputs).__name__
            )
            raise TypeError(f"it returned {got}, and its outputs are {', '.join(self._names)}")
        for name in self._rowed:
            array = outputs[name]
            if not isinstance(array, np.ndarray) or not array.ndim or array.shape[0] != count:
                got = str(array.shape) if isinstance(array, np.ndarray) else type(array).__name__
                raise TypeError(f"its output '{name}' is {got} for {count} rows")
        return outputs

    def _nothing(self, inputs: Tensors) -> Tensors:
        """Outputs of no rows, which many models cannot compute: a detector may have found none."""
        sizes = {
            size: length
            for spec in self.manifest.inputs
            for size, length in zip(spec.shape, inputs[spec.name].shape, strict=False)
        }
        return {
            spec.name: np.empty(
                (
                    0,
                    *(
                        each if isinstance(each, int) else sizes.get(each, 0)
                        for each in spec.shape[1:]
                    ),
                ),
                spec.dtype,
            )
            for spec in self.manifest.outputs
        }


def rows_of(tensors: Tensors) -> int:
    """The rows of those that have any, 1 where none has; a scalar may stand beside them."""
    return next((array.shape[0] for array in tensors.values() if array.ndim), 1)


def _cut(tensors: Tensors, start: int, end: int) -> Tensors:
    return {name: array[start:end] if array.ndim else array for name, array in tensors.items()}


def free(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The signature of a fixed batch as its ensemble sees it: any number of rows."""
    return tuple(
        TensorSpec(spec.name, spec.datatype, ("batch", *spec.shape[1:])) if spec.shape else spec
        for spec in specs
    )
