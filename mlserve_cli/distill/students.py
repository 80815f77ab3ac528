"""Who learns: student() of the definition, another package's network, or the teacher with fewer
layers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import DefinitionError, StepError, first_line
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.package import Package
from mlserve_cli.training import history as histories
from mlserve_cli.training import source
from mlserve_cli.training.source import Trainable

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A network to be trained, and what its package needs to build it again."""

    definition: Definition
    module: torch.nn.Module
    entry: str
    history: list[dict[str, Any]]
    facts: dict[str, Any]


def of_definition(definition: Definition, names: tuple[str, ...]) -> Student:
    """student(), untrained. Raises `DefinitionError` for no module or inputs of other names."""
    module = definition.function("student")()
    check(module, names, definition)
    return Student(definition=definition, module=module, entry="student", history=[], facts={})


def of_package(package: Package, names: tuple[str, ...]) -> Student:
    """The network of another package, a pruned one for example, with the weights it has."""
    found = source.load(package)
    if found.input_names != names:
        raise StepError(
            f"the student '{package.path}' takes {', '.join(found.input_names)}, and the model "
            f"{', '.join(names)}.",
            hint="both must take inputs of the same names, in the same order",
        )
    return Student(
        definition=found.definition,
        module=found.module,
        entry=found.entry,
        history=found.history,
        facts={"student": package.manifest.digest},
    )


def with_layers(
    teacher: Trainable, example: tuple[torch.Tensor, ...], *, keep: int | Sequence[int]
) -> Student:
    """The teacher with some of its layers, and their weights (Sanh et al., "DistilBERT", 2019).

    keep: how many, spread evenly from the first on, or which ones. Raises `StepError` where the
    network is no stack of layers, there are no such layers, or it does not run without the others.
    """
    import torch

    path, count = stack(teacher.module)
    kept = chosen(keep, count)
    dropped = [f"{path}.{index}" for index in range(count) if index not in kept]
    module = copy.deepcopy(teacher.module)
    histories.drop(module, dropped)
    try:
        with torch.no_grad():
            module.eval()(*example)
    except (RuntimeError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise StepError(
            f"the network does not run with the layers {', '.join(map(str, kept))} of '{path}' "
            f"alone: {first_line(error)}.",
            hint="write student() in the definition",
        ) from error
    return Student(
        definition=teacher.definition,
        module=module,
        entry=teacher.entry,
        history=[*teacher.history, {"drop": dropped, "layers": {}}],
        facts={"layers": list(kept), "layers_before": count},
    )


def stack(module: torch.nn.Module) -> tuple[str, int]:
    """The list of like blocks that holds most of the parameters: its path, and how many they are.

    Raises `StepError` where there is none.
    """
    import torch

    best: tuple[int, str, int] | None = None
    for name, layer in module.named_modules():
        if not isinstance(layer, (torch.nn.ModuleList, torch.nn.Sequential)) or len(layer) < 2:
            continue
        blocks = list(layer)
        alike = len({type(block) for block in blocks}) == 1 and any(blocks[0].children())
        size = sum(parameter.numel() for parameter in layer.parameters())
        if alike and (best is None or size > best[0]):
            best = (size, name, len(blocks))
    if best is None:
        raise StepError(
            f"{type(module).__name__} has no stack of like layers to take some out of.",
            hint="write student() in the definition",
        )
    return best[1], best[2]


def chosen(keep: int | Sequence[int], count: int) -> tuple[int, ...]:
    """The places of the layers that stay. Raises `StepError` where they are not of `count`."""
    if isinstance(keep, int):
        if not 0 < keep < count:
            raise StepError(
                f"{keep} layers cannot be kept of {count}.",
                hint=f"--keep-layers 1 to {count - 1}",
            )
        return tuple(place * count // keep for place in range(keep))
    places = tuple(keep)
    wrong = [place for place in places if not 0 <= place < count]
    if wrong:
        raise StepError(
            f"there is no layer {wrong[0]}: the network has {count}.",
            hint=f"--layers takes numbers from 0 to {count - 1}",
        )
    if list(places) != sorted(set(places)) or not places or len(places) == count:
        raise StepError(
            f"the layers {', '.join(map(str, places)) or 'none'} cannot stay of {count}.",
            hint="name some of them, each once, in their order: --layers 0,3",
        )
    return places


def check(student: Any, names: tuple[str, ...], definition: Definition) -> None:
    """Refuse a student that is no module, or whose inputs have other names than the teacher's."""
    import torch

    if not isinstance(student, torch.nn.Module):
        raise DefinitionError(
            f"student() of '{definition.path}' returns {type(student).__name__}, "
            "not a torch.nn.Module."
        )
    taken = list(inspect.signature(student.forward).parameters)
    if taken[: len(names)] != list(names):
        raise DefinitionError(
            f"the student's forward() takes {', '.join(taken)}, and the teacher's "
            f"{', '.join(names)}.",
            hint="name the student's inputs as the model names its own",
        )
