"""The processing that an ensemble has where its file declares none: that of its members.

A picture, a row or a text goes in as the first package takes it; what comes out is said as the
package says it whose answer, perhaps averaged, is the ensemble's.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from mlserve_cli.errors import DefinitionError
from mlserve_cli.export.ensemble.source import EnsembleFile
from mlserve_cli.export.ensemble.wiring import Wired
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime.ensemble.declaration import OperationStep, PackageStep
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    ImageInput,
    Processing,
    TableInput,
    TextInput,
    ValuesOutput,
)

Input = ImageInput | TableInput | TextInput
Output = ClassesOutput | ValuesOutput


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a member says of a tensor: how to answer it, and its labels."""

    output: Output
    labels: tuple[str, ...]
    by: str


def processing(
    file: EnsembleFile, wired: Wired, serve: Path, progress: Progress
) -> tuple[Processing, tuple[str, ...]]:
    """The processing and the labels; the files that it needs are copied into `serve`.

    Raises `DefinitionError` where packages that are averaged call their classes differently.
    """
    declared = file.processing
    claim = _answer(file, wired)
    if declared.input is None and declared.python is None:
        declared = replace(declared, input=_input(wired, serve, progress))
    elif getattr(declared.input, "tokenizer", None):
        name = str(getattr(declared.input, "tokenizer", ""))
        shutil.copyfile(file.beside(name, "the tokenizer"), serve / name)
    if declared.python is not None:
        from mlserve_cli.runtime.processing.python import check_alone

        path = file.beside(declared.python.file, "[processing.python]")
        check_alone(path, declared.python.requirements)
        shutil.copyfile(path, serve / declared.python.file)
    elif declared.output is None and claim is not None:
        declared = replace(declared, output=claim.output)
    labels = tuple(file.labels or ()) or (claim.labels if claim else ())
    return declared, labels


def _input(wired: Wired, serve: Path, progress: Progress) -> Input | None:
    """The first package's, with the tensors' names here, where it feeds all inputs."""
    first = next((step for step in wired.steps if isinstance(step, PackageStep)), None)
    if first is None:
        return None
    package = wired.members[first.member]
    declared = package.manifest.processing
    if declared.python is not None:
        progress.say(
            f"the {declared.python.file} of '{package.path}' stays with it: the ensemble takes "
            "tensors, unless [processing] says otherwise"
        )
        return None
    found = _renamed(declared.input, first.inputs)
    if found is None or _fed(found) != set(wired.inputs):
        return None
    tokenizer = getattr(found, "tokenizer", None)
    if tokenizer is not None:
        shutil.copyfile(package.serve / tokenizer, serve / tokenizer)
    return found


def _renamed(declared: Input | None, names: dict[str, str]) -> Input | None:
    match declared:
        case ImageInput():
            return replace(declared, tensor=names[declared.tensor])
        case TextInput():
            return replace(
                declared,
                tensor=names[declared.tensor],
                mask=None if declared.mask is None else names[declared.mask],
                type_ids=None if declared.type_ids is None else names[declared.type_ids],
            )
        case TableInput():
            return replace(
                declared,
                tensor=None if declared.tensor is None else names[declared.tensor],
                columns=tuple(
                    replace(column, tensor=column.tensor and names[column.tensor])
                    for column in declared.columns
                ),
            )
    return None


def _fed(declared: Input) -> set[str]:
    match declared:
        case TableInput():
            named = [declared.tensor, *(column.tensor for column in declared.columns)]
        case TextInput():
            named = [declared.tensor, declared.mask, declared.type_ids]
        case _:
            named = [declared.tensor]
    return {name for name in named if name}


def _answer(file: EnsembleFile, wired: Wired) -> _Claim | None:
    """How the last of the outputs is answered of which a package says it."""
    claims: dict[str, _Claim] = {}
    for step in wired.steps:
        if isinstance(step, PackageStep):
            claim = _of_member(step, wired.members[step.member])
            if claim is not None:
                claims[claim.output.tensor] = claim
        elif isinstance(step, OperationStep) and step.operation in ("mean", "softmax"):
            said = [(name, claims[name]) for name in step.inputs if name in claims]
            if not said:
                continue
            _check_labels(step, said)
            output = replace(said[0][1].output, tensor=step.output)
            if step.operation == "softmax" and isinstance(output, ClassesOutput):
                output = replace(output, softmax=False)
            claims[step.output] = _Claim(output, said[0][1].labels, said[0][1].by)
    answered = [claim for tensor, claim in claims.items() if tensor in file.outputs]
    return answered[-1] if answered else None


def _of_member(step: PackageStep, package: Package) -> _Claim | None:
    output = package.manifest.processing.output
    if not isinstance(output, (ClassesOutput, ValuesOutput)) or output.tensor not in step.outputs:
        return None
    return _Claim(
        replace(output, tensor=step.outputs[output.tensor]), package.manifest.labels, step.name
    )


def _check_labels(step: OperationStep, said: list[tuple[str, _Claim]]) -> None:
    """An average over classes that are not the same ones means nothing."""
    _, first = said[0]
    for _, other in said[1:]:
        if other.labels and first.labels and other.labels != first.labels:
            raise DefinitionError(
                f"step '{step.name}' ({step.operation}) averages the classes "
                f"{', '.join(first.labels[:5])} of '{first.by}' with "
                f"{', '.join(other.labels[:5])} of '{other.by}'.",
                hint="the packages need the same LABELS in the same order",
            )
