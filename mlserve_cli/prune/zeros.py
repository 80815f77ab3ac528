"""Sparsity that leaves layers their size: refused, with what it would bring, measured here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.errors import StepError, needs_extra
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.prune import speed

KINDS = ("2:4", "unstructured")

SHARE = 0.8
"""Of the weights that are set to zero to show what unstructured zeros bring."""

_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def refuse(kind: str, parent: Package, progress: Progress) -> StepError:
    """Zero the weights of a copy in that pattern, time it beside the parent, and say why not.

    Raises `StepError` itself where the pattern is unknown or the package holds no ONNX file.
    """
    if kind not in KINDS:
        raise StepError(f"'{kind}' is no sparsity.", hint=f"it can be {' or '.join(KINDS)}")
    if parent.model.suffix != ".onnx":
        raise StepError(
            f"'{parent.path}' holds no ONNX file to measure zeros with.",
            hint="prune whole channels: leave --sparsity out",
        )
    progress.stage("measuring what zeros bring")
    with tempfile.TemporaryDirectory(prefix="mlserve-zeros-") as folder:
        path = Path(folder) / "model.onnx"
        share = write(parent.model, path, kind)
        timing = speed.beside(path, parent)
    said = (
        f"with {share:.0%} of the weights at zero this model runs {timing.speedup:.2f} times as "
        f"fast ({timing.candidate_ms:.3g} ms, dense {timing.parent_ms:.3g} ms at batch 1) and is "
        "as large"
    )
    if kind == "2:4":
        return StepError(
            "2:4 sparsity pays only where hardware skips the zeros, the sparse tensor cores of "
            f"NVIDIA GPUs (sm_80 and later), {_gpu()}; here {said}.",
            hint="leave --sparsity out: whole channels make the layers smaller",
        )
    return StepError(
        f"unstructured zeros bring nothing: kernels multiply by them as by any number, and {said}.",
        hint="leave --sparsity out: whole channels make the layers smaller",
    )


def write(model: Path, target: Path, kind: str) -> float:
    """Write a copy whose smallest weights are zero; the share of the heavy weights that are."""
    with needs_extra("onnx", "measure sparsity"):
        import onnx
        from onnx import numpy_helper
    loaded = onnx.load(model)
    heavy = {name for node in loaded.graph.node if node.op_type in _HEAVY for name in node.input}
    zeros = total = 0
    for tensor in loaded.graph.initializer:
        if tensor.name not in heavy or len(tensor.dims) < 2:
            continue
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind != "f":
            continue
        made = _two_of_four(array) if kind == "2:4" else _smallest(array)
        zeros, total = zeros + int((made == 0).sum()), total + made.size
        tensor.CopyFrom(numpy_helper.from_array(made, tensor.name))
    onnx.save(loaded, target)
    return zeros / max(total, 1)


def _smallest(array: Any) -> Any:
    limit = np.quantile(np.abs(array), SHARE)
    return np.where(np.abs(array) <= limit, 0, array).astype(array.dtype)


def _two_of_four(array: Any) -> Any:
    """Of every four weights in a row the two smaller ones become zero; a rest of fewer stays."""
    flat = array.reshape(-1).copy()
    whole = flat[: flat.size // 4 * 4].reshape(-1, 4)
    order = np.argsort(np.abs(whole), axis=1)[:, :2]
    np.put_along_axis(whole, order, 0, axis=1)
    return flat.reshape(array.shape)


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "and this machine has none"
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return f"and this machine's is sm_{major}{minor}"
    return "and none of the engines that serve packages uses them"
