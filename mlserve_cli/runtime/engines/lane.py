"""One stream of a GPU: batches go up, are computed and come down in it, one after the other.

Launching a small model's kernels one by one takes longer than running them. So each batch size is
recorded once as a CUDA graph, with memory of its own to read from and write to; a batch is copied
there, the graph is started with a single call, and the answers are copied back. A batch between
two sizes takes the next larger graph, with zeros as further rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..monitoring import logs
from .archive import Signature
from .program import Call

if TYPE_CHECKING:
    import torch

log = logging.getLogger(f"{logs.NAME}.lane")

MOST_GRAPHS = 16
"""Where no sizes were given: each keeps its own memory, and a measurement visits 11."""

Array = np.ndarray[Any, Any]


class Device(Protocol):
    """What a lane asks of a GPU; a stream belongs to it."""

    def pinned(self, shape: Sequence[int], like: torch.Tensor | Array) -> torch.Tensor:
        """Memory of the host that the GPU can copy by itself."""

    def tensor(self, shape: Sequence[int], like: Array) -> torch.Tensor:
        """Zeros on the GPU."""

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Begin to copy, in the stream."""

    def call(self, call: Call, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Begin to run the model, in the stream."""

    def record(
        self, call: Call, inputs: Sequence[torch.Tensor]
    ) -> tuple[Callable[[], None], list[torch.Tensor]]:
        """Capture a run as a graph: what starts it again, and where its answers will be."""

    def wait(self) -> None:
        """Return when all that was begun in the stream is done."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A recorded run of one batch size, and the memory that it reads and writes."""

    replay: Callable[[], None]
    pinned_inputs: list[torch.Tensor]
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    pinned_outputs: list[torch.Tensor]


class Lane:
    """Runs one batch at a time; called by one thread at a time."""

    def __init__(
        self, device: Device, call: Call, signature: Signature, *, batches: tuple[int, ...]
    ) -> None:
        self._device = device
        self._call = call
        self._batches = batches
        self._specs = signature.inputs
        self._graphs: dict[int, Graph] = {}
        # A size of its own in another dimension would need a graph of its own.
        self._recordable = all(
            isinstance(size, int) for spec in signature.inputs for size in spec.shape[1:]
        ) and all(spec.shape for spec in signature.inputs)

    def prepare(self) -> None:
        """Record every size that was given, the largest first: the others reuse its memory."""
        for size in reversed(self._batches):
            self._graph(size)

    @property
    def recorded(self) -> tuple[int, ...]:
        """The batch sizes that have a graph."""
        return tuple(sorted(self._graphs))

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The inputs in their order → the outputs in theirs, as arrays of the caller's own."""
        count = int(arrays[0].shape[0]) if arrays and arrays[0].ndim else 0
        size = next((size for size in self._batches if size >= count), count)
        graph = self._graph(size) if count else None
        if graph is None:
            return self._run_unrecorded(arrays)
        for array, pinned, target in zip(arrays, graph.pinned_inputs, graph.inputs, strict=True):
            rows = pinned.numpy()
            rows[:count] = array
            rows[count:] = 0
            self._device.copy(pinned, target)
        graph.replay()
        for value, pinned in zip(graph.outputs, graph.pinned_outputs, strict=True):
            self._device.copy(value[:count], pinned[:count])
        self._device.wait()
        return [_array(pinned[:count]).copy() for pinned in graph.pinned_outputs]

    def _run_unrecorded(self, arrays: Sequence[Array]) -> list[Array]:
        inputs = []
        held = []  # the GPU reads it until the end
        for array in arrays:
            pinned = self._device.pinned(array.shape, array)
            pinned.numpy()[...] = array
            held.append(pinned)
            inputs.append(self._device.tensor(array.shape, array))
            self._device.copy(pinned, inputs[-1])
        outputs = self._device.call(self._call, inputs)
        landed = [self._device.pinned(value.shape, value) for value in outputs]
        for value, pinned in zip(outputs, landed, strict=True):
            self._device.copy(value, pinned)
        self._device.wait()
        return [_array(pinned) for pinned in landed]

    def _graph(self, size: int) -> Graph | None:
        found = self._graphs.get(size)
        if found is None and self._recordable and self._wanted(size):
            found = self._record(size)
            if found is not None:
                self._graphs[size] = found
        return found

    def _wanted(self, size: int) -> bool:
        if self._batches:
            return size in self._batches
        return len(self._graphs) < MOST_GRAPHS

    def _record(self, size: int) -> Graph | None:
        pinned_inputs, inputs = [], []
        for spec in self._specs:
            shape = [size, *(each for each in spec.shape[1:] if isinstance(each, int))]
            like = np.empty(0, spec.dtype)
            pinned_inputs.append(self._device.pinned(shape, like))
            inputs.append(self._device.tensor(shape, like))
        try:
            replay, outputs = self._device.record(self._call, inputs)
        except Exception as error:  # memory; or an operator that no graph can hold
            if _is_memory(error):
                raise
            log.warning(
                "the model runs without CUDA graphs, as it cannot be recorded: %s",
                str(error).strip().partition("\n")[0] or type(error).__name__,
            )
            self._recordable = False
            return None
        if any(value.ndim == 0 or value.shape[0] != size for value in outputs):
            self._recordable = False  # an answer of the whole batch: no row of it can be dropped
            return None
        pinned = [self._device.pinned(value.shape, value) for value in outputs]
        return Graph(replay, pinned_inputs, inputs, outputs, pinned)


def _array(pinned: torch.Tensor) -> Array:
    found: Array = (pinned.float() if str(pinned.dtype) == "torch.bfloat16" else pinned).numpy()
    return found


def _is_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"
