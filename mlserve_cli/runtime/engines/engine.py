"""What an engine is: tensors in, tensors out, on the caller's thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from ..tensors import Tensors, TensorSpec


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a model; every engine takes what applies to it.

    threads: for the arithmetic inside one run; 0 takes the physical cores this process may use.
    streams: runs that may go on at the same time in one engine.
    precision: what float32 models compute in; "bf16" is for engines and CPUs that have it.
    device: "cpu", "cuda" or "cuda:N".
    batches: the sizes to prepare for, smallest first. A batch between two of them may be run with
    further rows, whose answers are dropped. Empty: no size is known, none is ever filled up.
    """

    threads: int = 0
    streams: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"
    batches: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepTimes:
    """How long each step of one run took, for an engine that is made of steps."""

    names: tuple[str, ...]
    seconds: list[float]


class Engine(Protocol):
    """Executes one model.

    `run` is called from one thread per stream; it blocks, releases the GIL while computing, and
    returns arrays that the caller owns. `inputs` and `outputs` are read from the model itself.

    An engine that is not for the CPU alone says so: its class has
    `devices(model: Path) -> tuple[str, ...]`, best first, of "cpu" and "cuda", for this machine.
    One whose memory is not the process's own may have `free_bytes() -> int`: what is left of it.
    One that is made of steps may have `report`, None until somebody who wants the `StepTimes` of
    its runs sets it; it is called on the thread of the run.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, tensors: Tensors) -> Tensors:
        """Run a batch: every input by name → every output by name; raises as the engine does.

        Values that the model cannot take are an `InvalidRequest`: the mistake is the client's.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; no run may follow."""
        ...
