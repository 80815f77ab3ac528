"""Tensors of a block through the engine; a row that it fails on is found, and set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from mlserve_cli.errors import first_line
from mlserve_cli.predict.blocks import Reject
from mlserve_cli.runtime.batch import Promise, split
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.errors import RequestError
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Tensors, rows


@dataclass(slots=True)
class Answered:
    """What the model says to a block.

    runs: outputs, a row for each of `places`, in order; runs whose rows have other shapes stand
    apart. places: of the rows that were answered, among those that were given.
    """

    runs: list[Tensors] = field(default_factory=list)
    places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    rejects: list[Reject] = field(default_factory=list)  # by their places, too


class Runner:
    """Runs groups of rows on whichever engine is free. `run` may be called by several threads."""

    def __init__(self, engines: Sequence[Engine], streams: int, manifest: Manifest, batch: int):
        self._free: SimpleQueue[Engine] = SimpleQueue()
        for engine in [*engines] * streams:
            self._free.put(engine)
        self._manifest = manifest
        self._fixed = manifest.fixed_batch
        self._batch = batch
        self._promise = Promise.of(manifest.inputs, manifest.outputs)

    def run(self, groups: Sequence[Tensors]) -> Answered:
        """Answer the rows of all groups, `batch` at a time."""
        answered = Answered()
        places: list[np.ndarray] = []
        first = 0
        engine = self._free.get()
        try:
            for group in groups:
                self._group(engine, group, first, answered, places)
                first += rows(group)
        finally:
            self._free.put(engine)
        answered.runs = _joined(answered.runs)
        if places:
            answered.places = np.concatenate(places)
        return answered

    def _group(
        self,
        engine: Engine,
        group: Tensors,
        first: int,
        answered: Answered,
        done: list[np.ndarray],
    ) -> None:
        places = np.arange(first, first + rows(group))
        if self._manifest.finite_inputs:
            group, places = self._finite(group, places, answered)
        for start in range(0, len(places), self._batch):
            window = slice(start, start + self._batch)
            self._run(
                engine,
                {name: array[window] for name, array in group.items()},
                places[window],
                answered,
                done,
            )

    def _run(
        self,
        engine: Engine,
        batch: Tensors,
        places: np.ndarray,
        answered: Answered,
        done: list[np.ndarray],
    ) -> None:
        """Run a batch; one that fails in two halves, down to the row that is to blame."""
        count = len(places)
        try:
            outputs = self._padded(engine, batch, count)
        except Exception as error:  # each engine has its own
            if count == 1:
                answered.rejects.append(Reject(int(places[0]), _reason(error)))
                return
            half = count // 2
            for part in (slice(None, half), slice(half, None)):
                some = {name: array[part] for name, array in batch.items()}
                self._run(engine, some, places[part], answered, done)
            return
        answered.runs.append(outputs)
        done.append(places)

    def _padded(self, engine: Engine, batch: Tensors, count: int) -> Tensors:
        fixed = self._fixed
        if fixed is None:
            (outputs,) = split(engine.run(batch), [count], self._promise)
            return outputs
        if count < fixed:
            # The model takes one number of rows only: the last one stands in for those that lack.
            batch = {
                name: np.concatenate([array, np.repeat(array[-1:], fixed - count, axis=0)])
                for name, array in batch.items()
            }
        outputs = engine.run(batch)
        return {
            name: array[:count] if array.ndim and array.shape[0] == fixed else array
            for name, array in outputs.items()
        }

    def _finite(
        self, group: Tensors, places: np.ndarray, answered: Answered
    ) -> tuple[Tensors, np.ndarray]:
        """Without the rows that this package would answer with numbers that mean nothing."""
        good = np.ones(len(places), bool)
        for name, array in group.items():
            if array.dtype.kind != "f":
                continue
            fine = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            answered.rejects += [
                Reject(
                    int(places[row]),
                    f"input '{name}' holds NaN or infinity, which {self._manifest.variant} would "
                    "answer with a number that means nothing (take a float package)",
                )
                for row in np.flatnonzero(~fine & good)
            ]
            good &= fine
        if good.all():
            return group, places
        return {name: array[good] for name, array in group.items()}, places[good]


def _reason(error: Exception) -> str:
    if isinstance(error, RequestError):
        text = error.message.removesuffix(".")
        return f"{text} ({error.hint})" if error.hint else text
    return f"the model fails on it: {first_line(error)}"


def _joined(runs: list[Tensors]) -> list[Tensors]:
    """Neighbours whose rows have the same shapes as one."""
    if len(runs) < 2:
        return runs
    joined: list[Tensors] = []
    together: list[Tensors] = []
    for outputs in runs:
        if together and _shape(outputs) != _shape(together[0]):
            joined.append(_concatenated(together))
            together = []
        together.append(outputs)
    return [*joined, _concatenated(together)]


def _shape(outputs: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in outputs.items()}


def _concatenated(runs: list[Tensors]) -> Tensors:
    """All rows; what has no rows is the same in every run."""
    return {
        name: np.concatenate([outputs[name] for outputs in runs]) if array.ndim else array
        for name, array in runs[0].items()
    }
