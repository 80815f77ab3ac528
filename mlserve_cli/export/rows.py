"""Rows to trace, compare and prove with: the definition's own, or made up where there are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mlserve_cli.errors import DefinitionError, StepError, first_line
from mlserve_cli.package.definition import Definition, named
from mlserve_cli.package.finish import STATISTICS_BYTES, STATISTICS_ROWS
from mlserve_cli.package.rows import cast
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.tensors import Array, Tensors, TensorSpec, check, rows, whole_only

SYNTHETIC_ROWS = 32
"""As many as golden predictions keep."""

_SIZES = (16, 1, 32, 64, 128, 224, 256, 8, 4, 3, 2)
"""Tried in this order for a dimension of any size; models seldom refuse the first."""

_LONG = (512, 1024, 16000)
"""Models with a state or a sampling rate are mostly for sound, which comes in such pieces."""


def by_name(value: Any, names: tuple[str, ...], *, what: str) -> Tensors:
    """What a definition gives → arrays by name. Raises `DefinitionError` where it cannot be."""
    try:
        return named(value, names, what=what)
    except (TypeError, ValueError) as error:  # ragged lists, and dtypes that NumPy has not
        raise DefinitionError(f"{what} gives no array: {error}.") from error


def calibration(definition: Definition, names: tuple[str, ...]) -> Iterator[Tensors]:
    """Batches of calibration(), or nothing where the definition has none."""
    if definition.has("calibration"):
        for batch in definition.batches("calibration"):
            yield by_name(batch, names, what="a batch of calibration()")


def together(batches: Iterable[Tensors], limit: int) -> Tensors:
    """Up to `limit` rows of the batches in one; those of another shape than the first stay out."""
    kept: list[Tensors] = []
    count = 0
    for batch in batches:
        if kept and any(
            batch[name].shape[1:] != first.shape[1:] for name, first in kept[0].items()
        ):
            continue
        kept.append(batch)
        count += rows(batch)
        if count >= limit:
            break
    return {name: np.concatenate([batch[name] for batch in kept])[:limit] for name in kept[0]}


def some(batches: Iterable[Tensors]) -> Iterator[Tensors]:
    """The first batches, as many as statistics are made of: calibration data may be endless."""
    count = size = 0
    for batch in batches:
        yield batch
        count += rows(batch)
        size += sum(array.nbytes for array in batch.values())
        if count >= STATISTICS_ROWS or size >= STATISTICS_BYTES:
            return


def fitted(
    batches: Iterable[Tensors], specs: tuple[TensorSpec, ...], *, model: str, what: str
) -> Iterator[Tensors]:
    """The batches as the signature wants them: float64 becomes float32; a misfit is a sentence."""
    for batch in batches:
        fitting = cast(batch, specs)
        try:
            check(specs, fitting, model=model)
        except InvalidRequest as error:
            raise DefinitionError(
                f"{what} does not fit the model: {error.message}", hint=error.hint
            ) from error
        yield fitting


def synthetic(engine: Engine) -> Tensors:
    """Rows made up from the signature alone, the same ones each time, that the model accepts.

    Floats are standard normal, whole numbers 0 or 1, text is short words. A dimension of any size
    gets the first size that runs. Raises `StepError` when none does.
    """
    failure = ""
    whole = whole_only(engine.inputs)
    for size in (*_SIZES, *_LONG) if whole else _SIZES:
        made = _request(engine.inputs, size) if whole else _make(engine.inputs, size)
        try:
            engine.run(made)
        except Exception as error:
            failure = failure or first_line(error)
            continue
        return made
    raise StepError(
        f"the model fails on made-up rows: {failure}.",
        hint="give real rows that it takes: --calibration FILE",
    )


def _request(specs: tuple[TensorSpec, ...], size: int) -> Tensors:
    """One request of a model whose inputs can't be cut into rows: a state is for one of them."""
    generator = np.random.default_rng(0)
    made: Tensors = {}
    for spec in specs:
        stateful = bool(spec.shape) and isinstance(spec.shape[0], int)
        shape = [
            each if isinstance(each, int) else 1 if axis == 0 or stateful else size
            for axis, each in enumerate(spec.shape)
        ]
        made[spec.name] = _values(generator, spec, shape)
    return made


def _make(specs: tuple[TensorSpec, ...], size: int) -> Tensors:
    generator = np.random.default_rng(0)
    sizes = {spec.shape[0]: SYNTHETIC_ROWS for spec in specs if spec.has_batch}
    made: Tensors = {}
    for spec in specs:
        shape = [each if isinstance(each, int) else sizes.get(each, size) for each in spec.shape]
        made[spec.name] = _values(generator, spec, shape)
    return made


def _values(generator: np.random.Generator, spec: TensorSpec, shape: list[int]) -> Array:
    if spec.datatype == "BYTES":
        words = np.array([b"one", b"two words", b"three more words"], dtype=np.object_)
        return words[generator.integers(0, len(words), shape)]
    if spec.dtype.kind == "f":
        return generator.standard_normal(shape).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)
