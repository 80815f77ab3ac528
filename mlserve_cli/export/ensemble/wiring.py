"""From what a person wrote to steps: names filled in, packages opened, tensors connected."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from mlserve_cli.errors import DefinitionError, PackageError
from mlserve_cli.export.ensemble.source import (
    EnsembleFile,
    Entry,
    FunctionEntry,
    OperationEntry,
    PackageEntry,
)
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.ensemble import declaration, operations
from mlserve_cli.runtime.ensemble.declaration import (
    FunctionStep,
    OperationStep,
    PackageStep,
    Step,
)
from mlserve_cli.runtime.manifest import check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """The steps in order, the names of the ensemble's inputs, and the packages by member name."""

    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    members: dict[str, Package]


def wire(file: EnsembleFile) -> Wired:
    """Connect the steps of a file.

    A tensor that no step makes is an input of the ensemble. Raises `DefinitionError` or
    `PackageError` for what is missing, named twice, read before it is made, or would leave the
    folder.
    """
    steps: list[Step] = []
    members: dict[str, Package] = {}
    for number, entry in enumerate(file.entries, 1):
        match entry:
            case PackageEntry():
                steps.append(_package(file, entry, number, members))
            case FunctionEntry():
                steps.append(_function(file, entry, number))
            case OperationEntry():
                steps.append(_operation(entry, number))
    makes = {tensor for step in steps for tensor in step.makes}
    found = dict.fromkeys(tensor for step in steps for tensor in step.takes if tensor not in makes)
    inputs = tuple(found if file.inputs is None else file.inputs)
    declaration.check(steps, inputs, file.outputs)
    for tensor in file.tensors:
        if tensor not in makes and tensor not in inputs:
            raise DefinitionError(
                f"[tensors.{tensor}] of '{file.path}' is no tensor of the ensemble.",
                hint=declaration.near(tensor, {*makes, *inputs}),
            )
    return Wired(steps=tuple(steps), inputs=inputs, members=members)


def _package(
    file: EnsembleFile, entry: PackageEntry, number: int, members: dict[str, Package]
) -> PackageStep:
    path = file.folder / entry.package
    try:
        package = Package.open(path)
    except PackageError as error:
        raise PackageError(
            f"step {number} of '{file.path}': {error.message}", hint=error.hint
        ) from error
    name = _name(entry, path.resolve().name, number)
    manifest = package.manifest
    takes = [spec.name for spec in manifest.inputs]
    makes = [spec.name for spec in manifest.outputs]
    _check_known(name, entry.inputs, takes, "takes")
    if entry.outputs is not None:
        _check_known(name, entry.outputs, makes, "makes")
    # The very same package is in memory once, however many steps run it.
    member = next(
        (known for known, each in members.items() if each.manifest.digest == manifest.digest), name
    )
    members.setdefault(member, package)
    return PackageStep(
        name=name,
        member=member,
        inputs={each: entry.inputs.get(each, each) for each in takes},
        outputs={each: each for each in makes} if entry.outputs is None else entry.outputs,
    )


def _function(file: EnsembleFile, entry: FunctionEntry, number: int) -> FunctionStep:
    name, _, function = entry.function.partition(":")
    if not name.endswith(".py") or not function.isidentifier():
        raise DefinitionError(
            f"step {number} of '{file.path}' has the function '{entry.function}'.",
            hint='function = "steps.py:crop" names a function of a file beside it',
        )
    path = file.beside(name, f"the file of step {number}")
    parameters = _parameters(path, function)
    inputs = parameters if entry.inputs is None else entry.inputs
    step = _name(entry, function, number)
    if not entry.outputs:
        raise DefinitionError(f"step '{step}' makes nothing.", hint='outputs = ["crops"]')
    _check_known(step, inputs, parameters, "takes")
    return FunctionStep(
        name=step,
        file=check_name(name, "file of a function"),
        function=function,
        inputs=_table(inputs),
        outputs=_table(entry.outputs),
    )


def _operation(entry: OperationEntry, number: int) -> OperationStep:
    step = OperationStep(
        name=_name(entry, entry.operation, number),
        operation=entry.operation,
        inputs=tuple(entry.inputs),
        output=entry.output,
        axis=entry.axis,
        weights=tuple(entry.weights),
        datatype=entry.datatype,
        shape=None if entry.shape is None else tuple(entry.shape),
    )
    operations.build(step)
    return step


def _name(entry: Entry, fallback: str, number: int) -> str:
    try:
        return check_name(entry.name if entry.name is not None else fallback, "step name")
    except PackageError as error:
        hint = error.hint if entry.name is not None else 'give the step a name = "…"'
        raise DefinitionError(f"step {number}: {error.message}", hint=hint) from error


def _table(names: Iterable[str] | dict[str, str]) -> dict[str, str]:
    return dict(names) if isinstance(names, dict) else {name: name for name in names}


def _check_known(step: str, given: Iterable[str], names: Collection[str], verb: str) -> None:
    for name in given:
        if name not in names:
            raise DefinitionError(
                f"step '{step}' names '{name}', and it {verb} {', '.join(names) or 'nothing'}.",
                hint=declaration.near(name, names),
            )


def _parameters(path: Path, function: str) -> list[str]:
    """The parameters of a function, without importing its file."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise DefinitionError(
            f"'{path}' is no Python at line {error.lineno}: {error.msg}."
        ) from error
    named = {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}
    if function not in named:
        raise DefinitionError(
            f"'{path}' has no function {function}().",
            hint=declaration.near(function, named) or "it is written with def, at the top level",
        )
    arguments = named[function].args
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
        raise DefinitionError(
            f"{function}() of '{path}' takes more than parameters by name.",
            hint="each parameter is a tensor: def crop(image, boxes)",
        )
    return [each.arg for each in (*arguments.args, *arguments.kwonlyargs)]
