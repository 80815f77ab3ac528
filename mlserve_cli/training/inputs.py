"""What a definition yields → torch tensors, in the order in which the module takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import DefinitionError
from mlserve_cli.package.definition import Definition, named, to_array

if TYPE_CHECKING:
    import torch

Batch = tuple[tuple["torch.Tensor", ...], Any]
"""The inputs in the order of the input names, and the targets."""


def input_names(module: torch.nn.Module, sample: Any) -> tuple[str, ...]:
    """The names of the inputs: forward's parameters, as many as the sample fills.

    Raises `DefinitionError` when the sample does not fit forward.
    """
    parameters = [
        parameter
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    names = tuple(parameter.name for parameter in parameters)
    if isinstance(sample, Mapping):
        given = tuple(str(name) for name in sample)
        unknown = [name for name in given if name not in names]
        if unknown:
            raise DefinitionError(
                f"sample() gives '{unknown[0]}', and forward() takes {', '.join(names)}."
            )
        return tuple(name for name in names if name in given)
    count = len(sample) if isinstance(sample, tuple) else 1
    if count > len(names):
        raise DefinitionError(f"sample() gives {count} inputs, and forward() takes {len(names)}.")
    return names[:count]


def tensors(value: Any, names: tuple[str, ...], *, what: str) -> tuple[torch.Tensor, ...]:
    """Inputs as a definition gives them → one tensor a name, in that order."""
    import torch

    arrays = named(value, names, what=what)
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise DefinitionError(f"{what} gives text for '{name}', and torch takes numbers only.")
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays.values())


def targets(value: Any) -> Any:
    """Targets → int64 or float32 tensors; tuples and dicts keep their form."""
    import torch

    if isinstance(value, Mapping):
        return {key: targets(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(targets(item) for item in value)
    array = to_array(value)
    if value is None or (array.dtype.hasobject and any(each is None for each in np.ravel(value))):
        raise DefinitionError(
            "training() yields None among its targets.",
            hint="leave rows without a target out; 'mlserve distill' alone learns from inputs "
            "alone",
        )
    if array.dtype.kind in "iu":
        if array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise DefinitionError(
                f"a target is {int(array.max())}, which is no class and fits in no 64-bit integer.",
                hint="yield the index of the class, from 0 on; or floating-point numbers",
            )
        array = array.astype(np.int64)
    elif array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype.kind != "b":
        raise DefinitionError(
            "training() yields text as targets, and torch takes numbers only.",
            hint="yield the index of the class",
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def batches(
    definition: Definition, names: tuple[str, ...], function: str = "training"
) -> Callable[[], Iterator[Batch]]:
    """A callable that goes through training() (or `evaluation`) once, as torch tensors."""

    def once() -> Iterator[Batch]:
        for given, wanted in definition.pairs(function):
            yield tensors(given, names, what=f"{function}()"), targets(wanted)

    return once
