"""PROCESSING, made complete: what can be told from the model is filled in, its files are copied."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from mlserve_cli.errors import DefinitionError
from mlserve_cli.package.definition import Definition
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    ImageInput,
    Processing,
    TableInput,
    TextInput,
    ValuesOutput,
)
from mlserve_cli.runtime.tensors import Tensors, TensorSpec


def copy_files(definition: Definition, declared: Processing, serve: Path) -> None:
    """Copy the tokenizer and processing.py beside the definition into `serve/`.

    Raises `DefinitionError` when one is not there, or processing.py cannot be imported alone.
    """
    tokenizer = getattr(declared.input, "tokenizer", None)
    if tokenizer is not None:
        _copy(definition, tokenizer, serve, "the tokenizer")
    if declared.python is not None:
        _copy(definition, declared.python.file, serve, "PROCESSING['python']")
        from mlserve_cli.runtime.processing.python import check_alone

        check_alone(serve / declared.python.file, declared.python.requirements)


def with_input(manifest: Manifest, told: TableInput | None) -> Processing:
    """The declared processing with the columns that the source told, where none are declared."""
    declared = manifest.processing
    if told is None or declared.input is not None or declared.python is not None:
        return declared
    return msgspec.structs.replace(declared, input=told)


def with_output(
    manifest: Manifest,
    told: ClassesOutput | ValuesOutput | None,
    engine: Engine,
    real: Sequence[Tensors],
) -> Processing:
    """The declared processing with an output: what the source told, or what LABELS tell.

    LABELS tell of classes where one output alone has a column for each of them; softmax is applied
    where its rows are no shares yet.
    """
    output = told or _classes(manifest.labels, engine, real)
    return msgspec.structs.replace(manifest.processing, output=output)


def _classes(
    labels: tuple[str, ...], engine: Engine, real: Sequence[Tensors]
) -> ClassesOutput | None:
    fitting = [
        spec
        for spec in engine.outputs
        if len(spec.shape) == 2 and spec.shape[1] == len(labels) and spec.dtype.kind == "f"
    ]
    if len(labels) < 2 or len(fitting) != 1:
        return None
    try:
        answer = engine.run(real[0])
    except Exception:  # the proofs that follow say so with the row and the reason
        return None
    scores = answer[fitting[0].name].astype(np.float64)
    shares = bool(np.all(scores >= 0) and np.allclose(scores.sum(axis=1), 1.0, atol=1e-3))
    return ClassesOutput(tensor=fitting[0].name, softmax=not shares)


def check(manifest: Manifest, serve: Path) -> None:
    """Refuse processing and labels that do not fit the signature.

    Raises `DefinitionError` naming the tensor, its shape and what was declared.
    """
    declared = manifest.processing
    inputs = {spec.name: spec for spec in manifest.inputs}
    outputs = {spec.name: spec for spec in manifest.outputs}
    fed = _fed(declared)
    for name in fed:
        _known(name, inputs, "input")
    if declared.input is not None and declared.python is None:
        for name in inputs:
            if name not in fed:
                raise DefinitionError(
                    f"PROCESSING feeds {', '.join(fed)}, and the model also takes '{name}'.",
                    hint="declare what feeds it, or write a processing.py",
                )
    match declared.input:
        case ImageInput():
            _check_image(declared.input, inputs[declared.input.tensor])
        case TableInput():
            _check_table(declared.input, inputs)
        case TextInput():
            _check_text(declared.input, inputs)
    if declared.output is not None:
        spec = _known(declared.output.tensor, outputs, "output")
        if isinstance(declared.output, ClassesOutput):
            _check_classes(spec, manifest.labels)
    processing.build(manifest, serve)


def _fed(declared: Processing) -> list[str]:
    match declared.input:
        case ImageInput(tensor=tensor):
            return [tensor]
        case TableInput(columns=columns, tensor=matrix):
            return [each for each in (matrix, *(column.tensor for column in columns)) if each]
        case TextInput(tensor=tensor, mask=mask, type_ids=type_ids):
            return [each for each in (tensor, mask, type_ids) if each]
    return []


def _known(name: str, specs: dict[str, TensorSpec], side: str) -> TensorSpec:
    if name not in specs:
        raise DefinitionError(
            f"PROCESSING names the {side} '{name}', and the model's {side}s are {', '.join(specs)}."
        )
    return specs[name]


def _check_image(declared: ImageInput, spec: TensorSpec) -> None:
    size = (declared.height, declared.width)
    wanted = (declared.channels, *size) if declared.layout == "NCHW" else (*size, declared.channels)
    if len(spec.shape) != 4 or any(
        isinstance(allowed, int) and allowed != given
        for allowed, given in zip(spec.shape[1:], wanted, strict=True)
    ):
        raise DefinitionError(
            f"PROCESSING makes images of {wanted} ({declared.layout}), and the model's input "
            f"'{spec.name}' is {_shape(spec)}."
        )
    for name, values in (("mean", declared.mean), ("std", declared.std)):
        if len(values) not in (0, 1, declared.channels):
            raise DefinitionError(
                f"PROCESSING has {len(values)} values of {name} for {declared.channels} channels."
            )


def _check_table(declared: TableInput, inputs: dict[str, TensorSpec]) -> None:
    if declared.tensor is None:
        bare = [column.name for column in declared.columns if column.tensor is None]
        if bare:
            raise DefinitionError(
                f"PROCESSING does not say which input takes the column '{bare[0]}'.",
                hint='give the table one "tensor", or every column its own',
            )
        return
    spec = inputs[declared.tensor]
    if len(spec.shape) != 2 or (
        isinstance(spec.shape[1], int) and spec.shape[1] != len(declared.columns)
    ):
        raise DefinitionError(
            f"PROCESSING has {len(declared.columns)} columns, and the model's input "
            f"'{spec.name}' is {_shape(spec)}."
        )


def _check_text(declared: TextInput, inputs: dict[str, TensorSpec]) -> None:
    spec = inputs[declared.tensor]
    if declared.tokenizer is None and spec.datatype != "BYTES":
        raise DefinitionError(
            f"PROCESSING gives text to '{spec.name}', which takes {spec.datatype}.",
            hint='name a "tokenizer" file beside the definition',
        )
    if declared.tokenizer is not None and spec.datatype == "BYTES":
        raise DefinitionError(
            f"PROCESSING names a tokenizer, and '{spec.name}' takes text as it is."
        )


def _check_classes(spec: TensorSpec, labels: tuple[str, ...]) -> None:
    if len(spec.shape) != 2:
        raise DefinitionError(
            f"PROCESSING takes '{spec.name}' for scores of classes, and it is {_shape(spec)}, "
            "not (batch, classes)."
        )
    if labels and isinstance(spec.shape[1], int) and spec.shape[1] != len(labels):
        raise DefinitionError(
            f"there are {len(labels)} LABELS, and '{spec.name}' has {spec.shape[1]} classes."
        )


def _shape(spec: TensorSpec) -> str:
    return f"({', '.join(map(str, spec.shape))})"


def _copy(definition: Definition, name: str, serve: Path, what: str) -> None:
    folder = definition.path.parent
    path = (folder / name).resolve()
    if Path(name).name != name or not path.is_file():
        raise DefinitionError(f"{what} of '{definition.path}' names '{name}', no file beside it.")
    shutil.copyfile(path, serve / name)
