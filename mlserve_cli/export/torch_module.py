"""A torch module → ONNX or a `.pt2` file, compared with the module itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import DefinitionError, needs_extra
from mlserve_cli.export import onnx_from_torch, rows
from mlserve_cli.export.goal import Goal
from mlserve_cli.export.origin import Origin
from mlserve_cli.graph import from_torch, parity, program
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.tensors import Tensors
from mlserve_cli.training.inputs import input_names

if TYPE_CHECKING:
    import torch

ONNX = Goal()

_HALF_TOLERANCE = 2e-2
"""Half precision keeps 8 to 11 bits, and each side rounds in its own order."""


def write(
    definition: Definition,
    module: torch.nn.Module,
    folder: Path,
    progress: Progress,
    goal: Goal = ONNX,
) -> Origin:
    """Write the model into `folder` and compare it with the module.

    Raises `StepError` where they differ.
    """
    with needs_extra("torch", "export PyTorch models"):
        import onnxscript  # noqa: F401
        import safetensors  # noqa: F401
        import torch
    value = definition.function("sample")()
    names = input_names(module, value)
    sample = rows.by_name(value, names, what="sample()")
    if goal.torch:
        progress.stage("tracing the model")
    found = from_torch.run(module, sample)
    outputs = _output_names(definition, tuple(found))
    dynamic = _dynamic(definition, names)
    target = folder / goal.file
    if goal.compiled:
        progress.stage("compiling the model")
        program.compile(
            module, sample, target, outputs=outputs, dynamic=dynamic, device=goal.device
        )
    elif goal.torch:
        program.write(module, sample, target, outputs=outputs, dynamic=dynamic)

    def source(batch: Tensors) -> Tensors:
        return dict(zip(outputs, from_torch.run(module, batch).values(), strict=True))

    half = any(each.dtype in (torch.float16, torch.bfloat16) for each in module.parameters())
    real = rows.together(
        (part for parts in ([sample], rows.calibration(definition, names)) for part in parts),
        parity.LIMIT_ROWS,
    )
    tolerance = _HALF_TOLERANCE if half else parity.TOLERANCE
    if not goal.torch:
        exported = onnx_from_torch.write(
            module,
            [real, _shorter(real, dynamic)] if dynamic else [real],
            target,
            progress=progress,
            outputs=outputs,
            dynamic=dynamic,
            engine=goal.engine,
            fuse=goal.fuse,
            tolerance=tolerance,
        )
        return Origin(
            kind="torch",
            variant="fp16" if half else "fp32",
            parameters={"source": "torch", **exported.parameters},
            libraries=("torch", "onnx", "onnxscript"),
            parity=exported.parity,
            sample=sample,
            module=module,
            engine=goal.engine,
            model=goal.file,
        )
    progress.stage("comparing with the source")
    engine = engines.load(goal.engine, target, EngineOptions(device=goal.device))
    try:
        compared = parity.compare(source, engine, real, tolerance=tolerance)
        if dynamic:
            shorter = parity.compare(source, engine, _shorter(real, dynamic), tolerance=tolerance)
            parity.check(shorter)
    finally:
        engine.close()
    parity.check(compared)
    return Origin(
        kind="torch",
        variant=_variant("fp16" if half else "fp32", goal),
        parameters={"source": "torch", **_written(goal)},
        libraries=("torch",),
        parity=compared,
        sample=sample,
        module=module,
        engine=goal.engine,
        model=goal.file,
    )


def _variant(precision: str, goal: Goal) -> str:
    return f"{precision}-{'aoti' if goal.compiled else 'torch'}"


def _written(goal: Goal) -> dict[str, Any]:
    """What the lineage says of the file."""
    if goal.compiled:
        return {"format": "aoti", "device": goal.device}
    return {"format": "pt2"}


def _output_names(definition: Definition, found: tuple[str, ...]) -> tuple[str, ...]:
    """OUTPUTS; or the name that PROCESSING has for the only output; or what `forward` says."""
    given = definition.value("OUTPUTS")
    if given is not None:
        names = tuple(str(name) for name in given)
        if len(names) != len(found) or len(set(names)) != len(names):
            raise DefinitionError(
                f"OUTPUTS of '{definition.path}' is {list(names)}, and the model has "
                f"{len(found)} outputs.",
                hint="name each output once",
            )
        return names
    declared = definition.processing.output
    if len(found) == 1 and declared is not None:
        return (declared.tensor,)
    return found


def _dynamic(definition: Definition, names: tuple[str, ...]) -> dict[str, dict[int, str]]:
    """DYNAMIC: {"input": {axis: "name"}} for sizes that may differ beside the batch."""
    given = definition.value("DYNAMIC", {})
    wrong = DefinitionError(
        f"DYNAMIC of '{definition.path}' is {given!r}.",
        hint=f'it looks like {{"{names[0]}": {{1: "length"}}}}, with the inputs {", ".join(names)}',
    )
    if not isinstance(given, Mapping):
        raise wrong
    for name, axes in given.items():
        if name not in names or not isinstance(axes, Mapping):
            raise wrong
        if any(not isinstance(axis, int) or axis < 1 for axis in axes):
            raise wrong
        if any(not str(label).isidentifier() for label in axes.values()):
            raise wrong
    return {
        name: {axis: str(label) for axis, label in axes.items()} for name, axes in given.items()
    }


def _shorter(real: Tensors, dynamic: Mapping[str, Mapping[int, str]]) -> Tensors:
    """The same rows with every dimension of DYNAMIC cut to about half: other sizes must run."""
    cut = dict(real)
    for name, axes in dynamic.items():
        for axis in axes:
            half = max(2, real[name].shape[axis] // 2)
            cut[name] = cut[name].take(range(min(half, real[name].shape[axis])), axis=axis)
    return cut
