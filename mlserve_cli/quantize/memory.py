"""Whether a model fits into the memory that this process may use, said before work starts."""

from __future__ import annotations

import ctypes
import gc

from mlserve_cli.errors import StepError
from mlserve_cli.package.package import Package

STATIC = 7.5
WEIGHTS = 8.0
"""Copies of the weights that are in memory at the peak, which is in the preparation: most are ONNX
Runtime's and protobuf's own. Static int8 took 6 with 102 and 434 MB of weights, the others up to 8
with 67 and 201 MB."""

SMALL = 16_000_000
"""Bytes of a model whose copies are not worth looking for."""

BASE_BYTES = 400_000_000
"""Python, NumPy, ONNX Runtime and the values of a few rows."""


def estimate(package: Package, copies: float) -> int:
    """Bytes that quantizing a package takes at its peak."""
    return int(package.size_bytes * copies) + BASE_BYTES


def require(package: Package, *, copies: float) -> None:
    """Raise `StepError` where the estimate is above the limit of this process."""
    from mlserve_cli.runtime.hardware import detect

    needed, limit = estimate(package, copies), detect().memory_bytes
    if limit and needed > limit:
        raise StepError(
            f"quantizing '{package.path}' takes about {needed / 1e9:.1f} GB of memory, and this "
            f"process may use {limit / 1e9:.1f} GB.",
            hint="run it where there is more memory, or raise the container's limit",
        )


def give_back(model_bytes: int) -> None:
    """Return what was freed to the operating system, between two stages that need much.

    Tools that infer shapes leave models in cycles, which wait for the collector; and glibc keeps
    what was freed in pieces of less than 32 MB, as most weights are. For a model of fewer bytes
    than `SMALL` nothing is done: to look through all objects of a process takes longer.
    """
    if model_bytes < SMALL:
        return
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
