"""A torch module → a `.pt2` file: a torch.export program, or one compiled by AOTInductor.

The signature travels in the file: names of inputs and outputs, and which dimensions may differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mlserve_cli.errors import StepError, first_line, needs_extra
from mlserve_cli.graph import from_torch
from mlserve_cli.runtime.engines import archive
from mlserve_cli.runtime.engines.archive import Signature
from mlserve_cli.runtime.engines.program import derive
from mlserve_cli.runtime.tensors import Tensors, TensorSpec

if TYPE_CHECKING:
    import torch

_LARGEST = 65536
"""No batch is larger; a bound lets the compiler take 32-bit indices."""

Dynamic = Mapping[str, Mapping[int, str]]


def write(
    module: torch.nn.Module,
    sample: Tensors,
    path: Path,
    *,
    outputs: Sequence[str],
    dynamic: Dynamic | None = None,
) -> None:
    """Write `module` as a torch.export program, which every device can run.

    The arguments and what is raised are those of `from_torch.write_onnx`.
    """
    import torch

    program = _export(module, sample, dynamic or {}, device="cpu")
    signature = _signature(program, path, outputs, dynamic or {})
    # They may be anything, and would be stored as a pickle.
    program._example_inputs = None
    text = msgspec.json.encode(signature).decode()
    with from_torch.quiet():
        torch.export.save(program, str(path), extra_files={archive.SIGNATURE_FILE: text})


def compile(
    module: torch.nn.Module,
    sample: Tensors,
    path: Path,
    *,
    outputs: Sequence[str],
    dynamic: Dynamic | None = None,
    device: str = "cpu",
) -> None:
    """Compile `module` for this very machine's CPU, or its GPU, with AOTInductor.

    The arguments are those of `write`. Raises `StepError`, also where there is no compiler.
    """
    import copy

    with needs_extra("torch", "export PyTorch models"):
        import torch
        from torch._inductor import aoti_compile_and_package
    if device != "cpu":
        module = copy.deepcopy(module).to(device)
        torch.backends.cudnn.allow_tf32 = False  # as the engine, and as it is compared
    program = _export(module, sample, dynamic or {}, device=device)
    signature = _signature(program, path, outputs, dynamic or {})
    metadata = {archive.SIGNATURE_KEY: msgspec.json.encode(signature).decode()}
    try:
        with from_torch.quiet(), torch.no_grad():
            aoti_compile_and_package(
                program,
                package_path=str(path),
                inductor_configs={"aot_inductor.metadata": metadata},
            )
    except Exception as error:  # the compiler's own failures have no common class
        missing = "compiler" in str(error).lower()
        raise StepError(
            f"AOTInductor cannot compile the model: {first_line(error)}.",
            hint="install a C++ compiler: apt install g++"
            if missing
            else "--engine torch runs it without compiling",
        ) from error


def _export(
    module: torch.nn.Module, sample: Tensors, dynamic: Dynamic, *, device: str
) -> torch.export.ExportedProgram:
    with needs_extra("torch", "export PyTorch models"):
        import torch
    module.eval()
    sample = from_torch.at_least_two(sample)
    names = tuple(sample)
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(device)
        for name, array in sample.items()
    }
    sizes = {
        label: torch.export.Dim(label, min=1, max=_LARGEST)
        for label in {from_torch.BATCH, *(x for axes in dynamic.values() for x in axes.values())}
    }
    shapes = {
        name: {
            0: sizes[from_torch.BATCH],
            **{axis: sizes[label] for axis, label in dynamic.get(name, {}).items()},
        }
        for name in names
    }
    keywords = from_torch.keywords(module, names)
    try:
        with from_torch.quiet(), torch.no_grad():
            return torch.export.export(
                module,
                () if keywords else tuple(tensors.values()),
                tensors if keywords else None,
                dynamic_shapes=shapes if keywords else tuple(shapes.values()),
            )
    except Exception as error:  # user code, and dozens of the exporter's own kinds
        fixed = re.search(r"You marked (\w+) as dynamic but .* constant \((\d+)\)", str(error))
        if fixed:
            raise _baked(fixed[1], fixed[2], names, dynamic) from error
        raise from_torch.translated(error) from error


def _baked(label: str, size: str, names: tuple[str, ...], dynamic: Dynamic) -> StepError:
    places = [(name, axis) for name in dynamic for axis in dynamic[name]]
    name, axis = next(
        (place for place in places if dynamic[place[0]][place[1]] == label), (names[0], 0)
    )
    return from_torch.baked(size, name, axis)


def _signature(
    program: torch.export.ExportedProgram, path: Path, outputs: Sequence[str], dynamic: Dynamic
) -> Signature:
    """The program's own, with the names that were asked for."""
    found = derive(program, path)
    if len(outputs) != len(found.outputs):
        raise StepError(
            f"the model has {len(found.outputs)} outputs, and {len(outputs)} names were given for "
            f"them: {', '.join(outputs)}."
        )
    renamed = {
        spec.shape[axis]: label
        for spec in found.inputs
        for axis, label in dynamic.get(spec.name, {}).items()
    }

    def named(spec: TensorSpec, name: str) -> TensorSpec:
        shape = tuple(renamed.get(size, size) for size in spec.shape)
        return TensorSpec(name, spec.datatype, shape)

    return Signature(
        inputs=tuple(named(spec, spec.name) for spec in found.inputs),
        outputs=tuple(named(each, name) for each, name in zip(found.outputs, outputs, strict=True)),
        limits=found.limits,
    )
