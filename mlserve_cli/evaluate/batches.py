"""Rows through an engine, in the batches that its package allows."""

from __future__ import annotations

import numpy as np

from mlserve_cli.errors import DataError, StepError, first_line
from mlserve_cli.package.rows import cast
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Tensors, check, rows, whole_only

LIMIT_ROWS = 64
"""A definition may yield its whole set at once; activations of more rows would fill the memory."""


def run_rows(engine: Engine, manifest: Manifest, inputs: Tensors) -> Tensors:
    """Run all rows, at most `BatchProof.max_batch` together → one output row an input row.

    A model that takes a fixed number of rows gets its last batch filled up with the last row.
    Raises `InvalidRequest` when the inputs do not fit the signature, `StepError` when the model
    fails on them, or takes a request only whole.
    """
    if whole_only(manifest.inputs):
        raise StepError(
            f"'{manifest.name}' cannot be judged row by row: the first dimensions of its inputs "
            "count different things.",
            hint="let rows come first in each: a state as (batch, layers, size), constants inside",
        )
    inputs = cast(inputs, manifest.inputs)
    count = rows(inputs)
    if not count:
        raise DataError("a batch of the evaluation data has no rows.")
    fixed = manifest.fixed_batch
    step = fixed or manifest.batch.max_batch or LIMIT_ROWS
    parts: list[Tensors] = []
    for start in range(0, count, step):
        part = {name: array[start : start + step] for name, array in inputs.items()}
        size = rows(part)
        if fixed and size < fixed:
            part = {
                name: np.concatenate([array, np.repeat(array[-1:], fixed - size, axis=0)])
                for name, array in part.items()
            }
        check(manifest.inputs, part, model=manifest.name)
        parts.append(_run(engine, manifest, part, size))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _run(engine: Engine, manifest: Manifest, part: Tensors, size: int) -> Tensors:
    given = rows(part)
    try:
        outputs = engine.run(part)
    except Exception as error:  # an engine raises its library's own errors
        raise StepError(
            f"'{manifest.name}' ({manifest.variant}) fails on {given} rows of the data: "
            f"{first_line(error)}.",
        ) from error
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != given:
            raise StepError(
                f"output '{name}' of '{manifest.name}' has the shape {array.shape} for {given} "
                "rows; it cannot be compared with targets row by row."
            )
    return {name: array[:size] for name, array in outputs.items()}
