"""Padding: does a row's answer stay the same when its inputs are filled up with zeros?

It does for a text model that looks where its attention mask is one, and for hardly anything else.
A server may put requests of different lengths into one batch only where that was tried.
"""

from __future__ import annotations

import time

import numpy as np

from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.golden import relative_difference
from mlserve_cli.runtime.manifest import PaddingProof
from mlserve_cli.runtime.padding import Axes, axes, bucket
from mlserve_cli.runtime.tensors import Tensors

ROWS = 4
"""Real rows that are tried at each size."""

LARGEST = 512
"""What most text models take at most; answers to longer texts are dear to compute."""

BUDGET_S = 20.0


def prove(engine: Engine, real: Tensors, *, tolerance: float) -> PaddingProof | None:
    """Run a few real rows as they are, then filled up to larger and larger sizes.

    `tolerance` is relative to the output's range. None where no size but the batch may differ.
    """
    names = [
        size
        for spec in engine.inputs
        for axis, size in enumerate(spec.shape)
        if axis and isinstance(size, str)
    ]
    dimensions = tuple(dict.fromkeys(names))
    if not dimensions:
        return None
    inputs = axes(engine.inputs, dimensions)
    reason = _unfit(engine, inputs)
    if reason is not None:
        return PaddingProof(harmless=False, reason=reason)
    batch = {name: np.ascontiguousarray(array[:ROWS]) for name, array in real.items()}
    return _try(engine, batch, inputs, dimensions, tolerance)


def _unfit(engine: Engine, inputs: Axes) -> str | None:
    """Why it need not be tried."""
    if not all(spec.has_batch for spec in (*engine.inputs, *engine.outputs)):
        return "the model has a fixed or missing batch dimension"
    batch = engine.inputs[0].shape[0]
    for spec in engine.inputs:
        if spec.datatype == "BYTES" and inputs[spec.name]:
            return f"input '{spec.name}' is text"
        if batch in spec.shape[1:]:
            return f"'{batch}' is the batch and a size of input '{spec.name}', too"
    known = {name for here in inputs.values() for _, name in here}
    for spec in engine.outputs:
        for size in spec.shape[1:]:
            if isinstance(size, str) and size not in known:
                return f"output '{spec.name}' has a size '{size}', which no input has"
    return None


def _try(
    engine: Engine, batch: Tensors, inputs: Axes, dimensions: tuple[str, ...], tolerance: float
) -> PaddingProof:
    own = {
        dimension: batch[name].shape[axis]
        for name, here in inputs.items()
        for axis, dimension in here
    }
    expected = engine.run(batch)
    outputs = axes(engine.outputs, dimensions)
    largest = 0
    began = time.monotonic()
    size = bucket(max(own.values()) + 1)
    while size <= max(LARGEST, bucket(max(own.values()) + 1)):
        try:
            found = engine.run(_filled(batch, inputs, size))
        except Exception:
            break  # larger than the model takes, such as the positions it has learned
        for name, reference in expected.items():
            cut = found[name][_own(reference.ndim, outputs[name], own)]
            if cut.shape != reference.shape:
                return PaddingProof(
                    harmless=False, reason=f"output '{name}' has another shape at size {size}"
                )
            difference = relative_difference(reference, cut)
            if difference > tolerance:
                return PaddingProof(
                    harmless=False,
                    reason=f"filled up to {size}, output '{name}' differs by {difference:.1e} "
                    "(relative)",
                )
        largest = size
        if time.monotonic() - began > BUDGET_S:
            break
        size = bucket(size + 1)
    if not largest:
        return PaddingProof(harmless=False, reason="the model takes no larger rows than the sample")
    return PaddingProof(harmless=True, dimensions=dimensions, largest=largest, tolerance=tolerance)


def _filled(batch: Tensors, inputs: Axes, size: int) -> Tensors:
    """Every axis in question filled up with zeros to `size`."""
    filled = {}
    for name, array in batch.items():
        shape = list(array.shape)
        for axis, _ in inputs[name]:
            shape[axis] = max(size, shape[axis])
        larger = np.zeros(shape, array.dtype)
        larger[tuple(map(slice, array.shape))] = array
        filled[name] = larger
    return filled


def _own(ndim: int, here: tuple[tuple[int, str], ...], own: dict[str, int]) -> tuple[slice, ...]:
    index = [slice(None)] * ndim
    for axis, dimension in here:
        index[axis] = slice(own[dimension])
    return tuple(index)
