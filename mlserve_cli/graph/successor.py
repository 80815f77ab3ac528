"""A package's network, changed and written as its parent was, under the same signature."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError
from mlserve_cli.graph import from_torch, parity, program
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.runtime import engines, golden
from mlserve_cli.runtime.engines import archive
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    import torch


def write(module: torch.nn.Module, parent: Package, target: Path) -> None:
    """Write `module` to `target` with the inputs, outputs and free dimensions of `parent`.

    Raises `StepError` when it answers another number of outputs, or cannot be traced.
    """
    manifest = parent.manifest
    dynamic = {
        spec.name: {
            axis: size for axis, size in enumerate(spec.shape) if axis and isinstance(size, str)
        }
        for spec in manifest.inputs
    }
    write: Any = from_torch.write_onnx
    if target.suffix == ".pt2":  # of the engine torch: as its parent was, compiled or not
        compiled = archive.read(parent.model).compiled
        write = (
            program.write if compiled is None else partial(program.compile, device=compiled.device)
        )
    write(
        module,
        golden.read(parent.serve).inputs,
        target,
        outputs=[spec.name for spec in manifest.outputs],
        dynamic=dynamic,
    )


def check(module: torch.nn.Module, parent: Package, draft: Draft, manifest: Manifest) -> None:
    """Compare the draft's ONNX file with `module` on real rows, at batch 1, 2 and 7.

    Raises `StepError` where they answer differently, or not in the parent's signature.
    """
    if manifest.inputs != parent.manifest.inputs or not _same_shapes(parent.manifest, manifest):
        raise StepError(
            "the new network has another signature than its parent: "
            f"{_signature(manifest)}, where it was {_signature(parent.manifest)}."
        )
    names = [spec.name for spec in manifest.outputs]

    def source(batch: Tensors) -> Tensors:
        return dict(zip(names, from_torch.run(module, batch).values(), strict=True))

    engine = engines.open_package(draft.path, manifest)
    try:
        parity.check(parity.compare(source, engine, golden.read(parent.serve).inputs))
    finally:
        engine.close()


def _same_shapes(before: Manifest, after: Manifest) -> bool:
    """Names that the exporter makes up for free output dimensions may differ."""
    return [(spec.name, spec.datatype, spec.wire_shape) for spec in before.outputs] == [
        (spec.name, spec.datatype, spec.wire_shape) for spec in after.outputs
    ]


def _signature(manifest: Manifest) -> str:
    return " → ".join(
        ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in side)
        for side in (manifest.inputs, manifest.outputs)
    )
