"""Whether a source fits into the memory that this process may use, said before work starts."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from mlserve_cli.errors import StepError

ONNX_COPIES, ONNX_BASE_BYTES = 4.0, 200_000_000
TORCH_COPIES, TORCH_BASE_BYTES = 7.0, 600_000_000
"""Copies of the weights that are in memory at the peak, and what is there without any: measured
with a file of 207 MB (0.9 GB) and a Hugging Face folder of 91 MB (1.1 GB)."""

_ONNX = (".onnx", ".data", ".onnx_data")
"""A file and its external weights, as torch and Optimum call them."""


def require(source: Path, *, torch: bool) -> None:
    """Raise `StepError` where exporting `source` would take more than this process may have.

    `source` is a file with its weights, whose external data lies beside it, or a Hugging Face
    folder, of which the safetensors are read: other formats of the same weights may lie there, too.
    """
    from mlserve_cli.runtime.hardware import detect

    weights = _size(source)
    copies, base = (TORCH_COPIES, TORCH_BASE_BYTES) if torch else (ONNX_COPIES, ONNX_BASE_BYTES)
    needed, limit = int(weights * copies) + base, detect().memory_bytes
    if limit and needed > limit:
        raise StepError(
            f"exporting '{source}', which holds {weights / 1e9:.1f} GB of weights, takes about "
            f"{needed / 1e9:.1f} GB of memory, and this process may use {limit / 1e9:.1f} GB.",
            hint="run it where there is more memory, or raise the container's limit",
        )


def _size(source: Path) -> int:
    found: Iterator[Path]
    if source.is_dir():
        found = source.rglob("*.safetensors")
    elif source.suffix == ".onnx":
        beside = source.parent.glob(f"{glob.escape(source.stem)}.*")
        found = (each for each in beside if each.suffix in _ONNX)
    else:
        found = iter((source,))
    return sum(each.stat().st_size for each in found if each.is_file())
