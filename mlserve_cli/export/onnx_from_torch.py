"""A torch module → ONNX, with its attention fused where that helps, compared with the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.graph import clean, from_torch, fusion, parity
from mlserve_cli.graph.parity import Parity
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    import torch


_TRACED = 8
"""Rows are enough to trace with; more would only cost time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: how far it agrees with its module, and what the lineage says of it."""

    parity: Parity
    parameters: Mapping[str, Any] = field(default_factory=dict)


def write(
    module: torch.nn.Module,
    batches: Sequence[Tensors],
    target: Path,
    *,
    progress: Progress,
    outputs: Sequence[str] | None,
    dynamic: Mapping[str, Mapping[int, str]],
    engine: str = "onnxruntime",
    fuse: bool = False,
    tolerance: float = parity.TOLERANCE,
) -> Exported:
    """Trace `module` with the first of `batches`, and compare on all of them, at batch 1, 2 and 7.

    The others are rows of other sizes, where `dynamic` leaves sizes open. Raises `StepError`.
    """
    progress.stage("tracing the model")
    few = {name: array[:_TRACED] for name, array in batches[0].items()}
    names = tuple(outputs) if outputs is not None else tuple(from_torch.run(module, few))
    traced = from_torch.trace(module, few, outputs=names, dynamic=dynamic)
    plain = type(traced)()
    plain.CopyFrom(traced)
    clean.strip(plain)
    clean.save(plain, target)
    fused = 0
    if fuse:
        progress.stage("fusing attention")
        fused = fusion.apply(target, batches, tolerance=tolerance)

    def source(batch: Tensors) -> Tensors:
        return dict(zip(names, from_torch.run(module, batch).values(), strict=True))

    progress.stage("comparing with the source")
    loaded = engines.load(engine, target)
    try:
        compared = [parity.compare(source, loaded, batch, tolerance=tolerance) for batch in batches]
    finally:
        loaded.close()
    for each in compared:
        parity.check(each)
    return Exported(
        parity=parity.together(compared),
        parameters={"opset": from_torch.OPSET, **({"fused_attention": fused} if fused else {})},
    )
