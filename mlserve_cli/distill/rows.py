"""What the student learns from: training() of the definition, or a data file; targets or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.package import Package
from mlserve_cli.package.rows import cast
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.tensors import Tensors, rows

if TYPE_CHECKING:
    from mlserve_cli.data.batch import Batch as DataBatch
    from mlserve_cli.training.inputs import Batch

BATCH = 64
"""Rows of a step, where TRAINING says nothing and the rows come from a file."""

POOL = 4096
"""Rows of a file that are shuffled among each other: a file may be larger than the memory."""


def split(item: Any, inputs: int) -> tuple[Any, Any]:
    """What training() yields → inputs and targets, which are None where inputs come alone.

    A pair is (inputs, targets), unless the model has two `inputs` and both parts are arrays.
    """
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        return item, None
    if inputs == 2 and not isinstance(item[0], (dict, tuple, list)):
        return tuple(item), None
    return item[0], item[1]


def of_definition(definition: Definition, names: tuple[str, ...]) -> Callable[[], Iterator[Batch]]:
    """A callable that goes through training() once; missing targets are `()`."""
    from mlserve_cli.training import inputs

    def once() -> Iterator[Batch]:
        for item in definition.batches("training"):
            given, wanted = split(item, len(names))
            yield (
                inputs.tensors(given, names, what="training()"),
                () if wanted is None else inputs.targets(wanted),
            )

    return once


def of_data(
    package: Package, spec: str, *, target: str | None, batch: int | None
) -> Callable[[], Iterator[Batch]]:
    """A callable that goes through a data file once, shuffled; missing targets are `()`.

    The order follows from NumPy's global random state, which the training loop seeds.
    """
    from mlserve_cli.training import inputs

    names = tuple(spec.name for spec in package.manifest.inputs)
    size = batch or BATCH

    def once() -> Iterator[Batch]:
        for part in _shuffled(read(package, spec, target=target, batch=size), size):
            yield (
                inputs.tensors(part.inputs, names, what=f"'{spec}'"),
                () if part.targets is None else inputs.targets(part.targets),
            )

    return once


def read(
    package: Package, spec: str, *, target: str | None = None, batch: int = BATCH
) -> Iterator[_Part]:
    """The rows of a data file as the package takes them, with their targets where it has some."""
    from mlserve_cli.data.source import read as read_source

    processor = processing.build(package.manifest, package.serve)
    found: Iterable[DataBatch] = read_source(
        spec, package.manifest, processor, batch=batch, target=target
    )
    for each in found:
        yield _Part(cast(each.inputs, package.manifest.inputs), each.targets)


@dataclass(frozen=True, slots=True)
class _Part:
    inputs: Tensors
    targets: Any


class Epoch:
    """One epoch of batches, whose beginning is told; counting them is none."""

    def __init__(self, batches: Callable[[], Iterable[Batch]], begin: Callable[[], None]) -> None:
        self._batches = batches
        self._begin = begin

    def counting(self) -> Iterator[Batch]:
        """The batches, without a beginning."""
        return iter(self._batches())

    def __iter__(self) -> Iterator[Batch]:
        self._begin()
        return iter(self._batches())


def check(batches: Callable[[], Iterable[Batch]], alpha: float | None, *, whence: str) -> float:
    """The teacher's share: as given, else 1 for rows without targets and 0.9 beside targets.

    Looks at the first batch alone. Raises `StepError` where there is none.
    """
    from mlserve_cli.training import soft

    for _, targets in batches():
        if alpha is None:
            return 1.0 if isinstance(targets, tuple) and not targets else ALPHA
        soft.check_targets(targets, alpha)
        return alpha
    raise StepError(
        f"{whence} yields no batches.", hint="it yields (inputs, targets), or inputs alone"
    )


ALPHA = 0.9
"""The teacher's share where there are targets: they correct it where it is wrong."""


def together(parts: Iterable[tuple[Tensors, Any]], limit: int) -> tuple[Tensors, Any]:
    """All rows as one batch, at most `limit`, for estimators that learn from a whole table.

    Targets are None unless every part has some. Raises `DefinitionError` where rows do not fit
    together, `StepError` where there are none.
    """
    kept: list[Tensors] = []
    wanted: list[Any] = []
    count = 0
    for inputs, targets in parts:
        kept.append(inputs)
        wanted.append(targets)
        count += rows(inputs)
        if count >= limit:
            break
    if not count:
        raise StepError("there are no rows to learn from.")
    try:
        joined = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    except (ValueError, KeyError) as error:
        raise DefinitionError(f"the rows to learn from do not fit together: {error}.") from error
    if any(each is None for each in wanted):
        return joined, None
    return joined, np.concatenate([np.asarray(each) for each in wanted])


def _shuffled(parts: Iterable[_Part], size: int) -> Iterator[_Part]:
    """Batches of `size` from a pool of rows in another order; rows of one shape share a batch."""
    pool: list[_Part] = []
    count = 0
    for part in parts:
        pool.append(part)
        count += rows(part.inputs)
        if count >= POOL:
            yield from _mixed(pool, size)
            pool, count = [], 0
    yield from _mixed(pool, size)


def _mixed(pool: list[_Part], size: int) -> Iterator[_Part]:
    alike: dict[tuple[Any, ...], list[_Part]] = {}
    for part in pool:
        shapes = tuple((name, array.shape[1:]) for name, array in part.inputs.items())
        alike.setdefault((shapes, part.targets is None), []).append(part)
    batches: list[_Part] = []
    for group in alike.values():
        joined = {
            name: np.concatenate([part.inputs[name] for part in group]) for name in group[0].inputs
        }
        wanted = (
            None
            if group[0].targets is None
            else np.concatenate([np.asarray(part.targets) for part in group])
        )
        order = np.random.permutation(rows(joined))
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            batches.append(
                _Part(
                    {name: array[chosen] for name, array in joined.items()},
                    None if wanted is None else wanted[chosen],
                )
            )
    for index in np.random.permutation(len(batches)):
        yield batches[index]
