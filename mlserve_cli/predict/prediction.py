"""Rows from a file, through the package, into a file; in bounded memory, in their order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from mlserve_cli.data import source as sources
from mlserve_cli.errors import DataError, first_line
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.predict import output
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.engines import Engine, EngineOptions
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Tensors, TensorSpec, rows


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did."""

    rows: int
    seconds: float

    @property
    def rows_per_s(self) -> float:
        """From the first byte read to the last one written."""
        return self.rows / max(self.seconds, 1e-9)


def predict(
    package: Package,
    source: str,
    target: str,
    *,
    batch: int = 64,
    options: EngineOptions | None = None,
    piped: str = "jsonl",
    overwrite: bool = False,
    progress: Progress,
) -> Report:
    """Answer every row of `source` (see `data.source.read`) into `target`, a row for a row.

    target: .csv, .jsonl or .npz; "-" writes to stdout as `piped`, as "-" reads from stdin.
    batch: the most rows to run together; a package that is not batch-invariant runs one by one.

    Raises `DataError` naming the row that cannot be read or run; `target` then is as it was.
    """
    manifest = _free(package.manifest)
    processor = processing.build(manifest, package.serve)
    limit = manifest.batch.max_batch or batch
    fixed = package.manifest.fixed_batch
    start = time.monotonic()
    count = 0
    with output.open_target(
        target, manifest, processor, format=piped, overwrite=overwrite
    ) as writer:
        batches = sources.read(
            source,
            manifest,
            processor,
            batch=fixed or min(limit, batch),
            targets=False,
            format=piped if source == "-" else None,
        )
        engine = package.engine(options)
        try:
            progress.stage("predicting")
            for item in batches:
                outputs = _run(engine, item.inputs, manifest, fixed=fixed, first=count + 1)
                writer.write(outputs)
                count += item.size
                progress.advance(
                    item.size, note=f"{count / (time.monotonic() - start):,.0f} rows/s"
                )
        finally:
            engine.close()
    return Report(count, time.monotonic() - start)


def _run(
    engine: Engine, inputs: Tensors, manifest: Manifest, *, fixed: int | None, first: int
) -> Tensors:
    """Run a batch; `first` is the number of its first row."""
    count = rows(inputs)
    if manifest.finite_inputs:
        _check_finite(inputs, manifest, first)
    padded = inputs
    if fixed is not None and count < fixed:
        # The model takes one number of rows only: the last one stands in for those that lack.
        padded = {
            name: np.concatenate([array, np.repeat(array[-1:], fixed - count, axis=0)])
            for name, array in inputs.items()
        }
    try:
        outputs = engine.run(padded)
    except Exception as error:  # each engine has its own
        raise _failed(engine, inputs, error, fixed=fixed, first=first) from error
    if padded is inputs:
        return outputs
    return {
        name: array[:count] if array.ndim and array.shape[0] == fixed else array
        for name, array in outputs.items()
    }


def _check_finite(inputs: Tensors, manifest: Manifest, first: int) -> None:
    for name, array in inputs.items():
        if array.dtype.kind != "f":
            continue
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        if bad.size:
            raise DataError(
                f"row {first + int(bad[0])}: input '{name}' holds NaN or infinity, and this "
                f"package ({manifest.variant}) would answer it with a number that means nothing.",
                hint="leave such rows out, or take a float package",
            )


def _failed(
    engine: Engine, inputs: Tensors, error: Exception, *, fixed: int | None, first: int
) -> DataError:
    """Name the row that the engine fails on, where it is one alone."""
    count = rows(inputs)
    if fixed is None and count > 1:
        for row, one in enumerate(_one_by_one(inputs)):
            try:
                engine.run(one)
            except Exception as found:
                return DataError(f"the model fails on row {first + row}: {first_line(found)}.")
    where = f"row {first}" if count == 1 else f"rows {first} to {first + count - 1}"
    return DataError(f"the model fails on {where}: {first_line(error)}.")


def _one_by_one(inputs: Tensors) -> Iterator[Tensors]:
    for row in range(rows(inputs)):
        yield {name: array[row : row + 1] for name, array in inputs.items()}


def _free(manifest: Manifest) -> Manifest:
    """The manifest as the processing is to see it: a row of a file is one row of a batch, also
    where the model takes a fixed number of them."""

    def free(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(spec.name, spec.datatype, ("batch", *spec.shape[1:])) if spec.shape else spec
            for spec in specs
        )

    return msgspec.structs.replace(
        manifest, inputs=free(manifest.inputs), outputs=free(manifest.outputs)
    )
