"""What an engine is: tensors in, tensors out, on the caller's thread."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from ..tensors import Tensors, TensorSpec


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a model; every engine takes what applies to it.

    threads: for the arithmetic inside one run; 0 takes the physical cores this process may use.
    streams: runs that may go on at the same time in one engine.
    precision: what float32 models compute in; "bf16" is for engines and CPUs that have it.
    device: "cpu", "cuda" or "cuda:N".
    """

    threads: int = 0
    streams: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"


class Engine(Protocol):
    """Executes one model.

    `run` is called from one thread per stream; it blocks, releases the GIL while computing, and
    returns arrays that the caller owns. `inputs` and `outputs` are read from the model itself.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, tensors: Tensors) -> Tensors:
        """Run a batch: every input by name → every output by name; raises as the engine does."""
        ...

    def close(self) -> None:
        """Free the model's memory; no run may follow."""
        ...
