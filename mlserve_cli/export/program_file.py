"""A torch.export program (`.pt2`) → ONNX, compared with the program as the engine torch runs it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlserve_cli.errors import StepError, needs_extra
from mlserve_cli.export import rows
from mlserve_cli.export.goal import Goal
from mlserve_cli.export.origin import Origin
from mlserve_cli.graph import clean, from_torch, fusion, parity
from mlserve_cli.graph.batch import name_batch
from mlserve_cli.graph.names import rename_outputs
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import archive
from mlserve_cli.runtime.engines.archive import Signature
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    import onnx
    import torch


def convertible(file: Path, goal: Goal) -> bool:
    """Whether the goal's engine takes ONNX, and the file is a program and nothing compiled."""
    return not goal.torch and not goal.own and archive.read(file).compiled is None


def write(file: Path, target: Path, goal: Goal, progress: Progress) -> Origin:
    """Convert the program and compare it with itself.

    Raises `StepError` where it cannot be converted or answers differently; `EngineError` for a file
    that is damaged, or would run code while it is read.
    """
    with needs_extra("torch", "export PyTorch models"):
        import onnxscript  # noqa: F401
        import torch

        from mlserve_cli.runtime.engines import program as programs
    progress.stage("reading the program")
    found = archive.read(file)
    program = programs.load_program(found)
    signature = found.signature or programs.derive(program, file)
    progress.stage("converting the program")
    try:
        with from_torch.quiet():
            made = torch.onnx.export(
                program,
                (),
                None,
                input_names=[spec.name for spec in signature.inputs],
                opset_version=from_torch.OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # dozens of the exporter's own kinds
        told = from_torch.translated(error)
        raise StepError(told.message, hint="--engine torch runs it as it is") from error
    if made is None:
        raise StepError(f"'{file}' cannot be converted.", hint="--engine torch runs it as it is")
    model: onnx.ModelProto = made.model_proto
    _name(model, signature, file)
    plain = type(model)()
    plain.CopyFrom(model)
    clean.strip(plain)
    clean.save(plain, target)
    with contextlib.closing(engines.load("torch", file)) as source:
        sample = _example(program, signature) or rows.synthetic(source)
        fused = 0
        if goal.fuse:
            fused = fusion.apply(target, [sample])
        progress.stage("comparing with the source")
        with contextlib.closing(engines.load(goal.engine, target)) as engine:
            compared = parity.compare(source.run, engine, sample)
        parity.check(compared)
    return Origin(
        kind="torch.export",
        variant="fp32",
        parameters={
            "source": "pt2",
            "opset": from_torch.OPSET,
            **({"fused_attention": fused} if fused else {}),
        },
        libraries=("torch", "onnx", "onnxscript"),
        parity=compared,
        made_up=sample,
        engine=goal.engine,
        model=goal.file,
    )


def _name(model: onnx.ModelProto, signature: Signature, file: Path) -> None:
    """Give inputs, outputs and open sizes the names of the program's signature."""
    graph = model.graph
    if len(graph.input) != len(signature.inputs) or len(graph.output) != len(signature.outputs):
        raise StepError(
            f"'{file}' takes {len(signature.inputs)} tensors and answers "
            f"{len(signature.outputs)}, and its ONNX form {len(graph.input)} and "
            f"{len(graph.output)}.",
            hint="--engine torch runs it as it is",
        )
    names: dict[str, str] = {}
    for value, spec in zip(graph.input, signature.inputs, strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if dim.dim_param and isinstance(size, str):
                names.setdefault(dim.dim_param, size)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    rename_outputs(model, [spec.name for spec in signature.outputs])
    name_batch(model)


def _example(program: torch.export.ExportedProgram, signature: Signature) -> Tensors | None:
    """The example inputs that the author saved, where there are any."""
    import torch

    if not program.example_inputs:
        return None
    arguments, keywords = program.example_inputs
    given = [*arguments, *(keywords or {}).values()]
    if len(given) != len(signature.inputs) or not all(
        isinstance(each, torch.Tensor) and each.ndim for each in given
    ):
        return None
    return {
        spec.name: np.ascontiguousarray(each.detach().cpu().numpy())
        for spec, each in zip(signature.inputs, given, strict=True)
    }
