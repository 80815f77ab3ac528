"""`file.py:function`: the user's own generator of batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlserve_cli.data import targets
from mlserve_cli.data.batch import Batch
from mlserve_cli.data.fit import fit
from mlserve_cli.data.reading import Reading
from mlserve_cli.errors import DataError
from mlserve_cli.package.definition import Definition, named, to_array


def read(file: Path, function: str, reading: Reading) -> Iterator[Batch]:
    """Stream what `function` of `file` yields: inputs, or (inputs, targets).

    Inputs are an array, a tuple of arrays in the order of the model's inputs, or a dict by name.
    A pair is (inputs, targets), unless the model has two inputs and both parts are arrays.
    Raises `DefinitionError` for what the function raises, `DataError` for what does not fit.
    """
    definition = Definition.load(file)
    if not callable(definition.value(function)):
        raise DataError(
            f"'{file}' has no function {function}().",
            hint="it yields batches of inputs, or of (inputs, targets)",
        )
    return _batches(definition, function, reading)


def _batches(definition: Definition, function: str, reading: Reading) -> Iterator[Batch]:
    names = tuple(spec.name for spec in reading.manifest.inputs)
    name = f"{definition.path.name}:{function}"
    row = 1
    for number, item in enumerate(definition.batches(function), start=1):
        where = f"batch {number} of {name}"
        given, answers = _split(item, len(names))
        batch = Batch(fit(named(given, names, what=where), reading.manifest, where=where))
        if answers is not None and reading.targets:
            array = to_array(answers)
            if not array.ndim or len(array) != batch.size:
                raise DataError(
                    f"{where} has {batch.size} rows and {len(array) if array.ndim else 1} targets."
                )
            array = targets.from_array(array, reading.manifest.labels, where=name, first=row)
            batch = Batch(batch.inputs, array)
        row += batch.size
        yield from batch.parts(reading.batch)
    if row == 1:
        raise DataError(f"{name} yields nothing.", hint="yield at least one batch")


def _split(item: Any, inputs: int) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        return item, None
    if inputs == 2 and not isinstance(item[0], (dict, tuple, list)):
        return tuple(item), None
    return item[0], item[1]
