"""The end of every step: what was written is loaded, run on real rows, proven and sealed."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.package import golden, invariance, padding, statistics
from mlserve_cli.package.draft import Draft
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.golden import Golden
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Tensors, fixed_batch, rows, whole_only

STATISTICS_ROWS = 1024
"""Enough for quantiles of a percent; the rows are held in memory."""

STATISTICS_BYTES = 64 << 20


def finish(draft: Draft, manifest: Manifest, sample: Iterable[Tensors]) -> Manifest:
    """Load the draft's model, write golden predictions and statistics, prove it, seal it.

    `sample` yields batches of real rows; the first of them become the golden rows. The signature
    in the manifest is replaced by the engine's own. Raises `StepError` when the model does not
    load or run, or answers nothing finite.
    """
    engine = engines.open_package(draft.path, manifest)
    try:
        whole = whole_only(engine.inputs)
        real = _first(sample) if whole else _collect(sample)
        chosen = golden.choose(real)
        fixed = fixed_batch(engine.inputs)
        if fixed is not None and not whole:
            real = _take(real, rows(real) - rows(real) % fixed)
            chosen = _take(real, fixed)
            if not rows(chosen):
                raise StepError(f"the model takes {fixed} rows at once; the sample has fewer.")
        proof = invariance.prove(engine, chosen, tolerance=manifest.tolerance)
        if whole:
            outputs = _run(engine, real, max(len(each) for each in real.values() if each.ndim))
            kept = outputs
        else:
            outputs = _run(engine, real, fixed or proof.max_batch or 64)
            kept = _take(outputs, rows(chosen))
        golden.write(draft.serve, Golden(chosen, kept))
        statistics.write(draft.serve, real, outputs)
        return draft.seal(
            msgspec.structs.replace(
                manifest,
                inputs=engine.inputs,
                outputs=engine.outputs,
                batch=proof,
                padding=padding.prove(engine, chosen, tolerance=manifest.tolerance)
                if proof.invariant
                else None,
            )
        )
    finally:
        engine.close()


def _first(sample: Iterable[Tensors]) -> Tensors:
    """One request, whole: of a model whose inputs can't be cut into rows."""
    for batch in sample:
        return batch
    raise StepError("there is no sample to try the model with: it has no rows.")


def _collect(sample: Iterable[Tensors]) -> Tensors:
    batches: list[Tensors] = []
    count = size = 0
    for batch in sample:
        if batches and any(
            left.shape[1:] != right.shape[1:]
            for left, right in zip(batches[0].values(), batch.values(), strict=True)
        ):
            continue  # rows of another length cannot stand in the same array
        batches.append(batch)
        count += rows(batch)
        size += sum(array.nbytes for array in batch.values())
        if count >= STATISTICS_ROWS or size >= STATISTICS_BYTES:
            break
    if not count:
        raise StepError("there is no sample to try the model with: it has no rows.")
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _take(tensors: Tensors, count: int) -> Tensors:
    return {name: array[:count] if array.ndim else array for name, array in tensors.items()}


def _run(engine: Engine, real: Tensors, step: int) -> Tensors:
    """Run all rows, `step` at a time; one output row an input row."""
    parts = []
    for start in range(0, rows(real), step):
        try:
            parts.append(
                engine.run(
                    {
                        name: array[start : start + step] if array.ndim else array
                        for name, array in real.items()
                    }
                )
            )
        except Exception as error:
            raise StepError(
                f"the model fails on real rows: {first_line(error)}.",
                hint="check that the sample fits the model",
            ) from error
    outputs = {}
    for name, first in parts[0].items():
        array = np.concatenate([part[name] for part in parts]) if first.ndim else first
        if array.dtype.kind == "f" and array.size and not np.isfinite(array).any():
            raise StepError(f"output '{name}' is NaN or infinite for every real row.")
        outputs[name] = array
    return outputs
