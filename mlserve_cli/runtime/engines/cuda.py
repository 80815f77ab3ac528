"""A GPU as PyTorch sees it: one stream, and what is begun in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .program import Call

if TYPE_CHECKING:
    import torch

_VISITS = 3
"""Before a graph is recorded: libraries choose their kernels and take memory on the first visits,
and what they do there must not be recorded."""


class CudaDevice:
    """One stream of a GPU. Called from one thread at a time."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)  # the weights came up in another stream
        self._pool: Any = None  # graphs of one lane never run side by side: one pool is enough

    def pinned(
        self, shape: Sequence[int], like: torch.Tensor | np.ndarray[Any, Any]
    ) -> torch.Tensor:
        """Memory of the host that the GPU can copy by itself."""
        return self._torch.empty(tuple(shape), dtype=self._dtype(like), pin_memory=True)

    def tensor(self, shape: Sequence[int], like: np.ndarray[Any, Any]) -> torch.Tensor:
        """Zeros on the GPU."""
        with self._torch.cuda.stream(self._stream):
            return self._torch.zeros(tuple(shape), dtype=self._dtype(like), device=self._device)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Begin to copy, in the stream."""
        with self._torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def call(self, call: Call, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Begin to run the model, in the stream."""
        with self._torch.inference_mode(), self._torch.cuda.stream(self._stream):
            return call(inputs)

    def record(
        self, call: Call, inputs: Sequence[torch.Tensor]
    ) -> tuple[Callable[[], None], list[torch.Tensor]]:
        """Capture a run as a CUDA graph: what starts it again, and where its answers will be."""
        torch = self._torch
        for _ in range(_VISITS):
            self.call(call, inputs)
        self.wait()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # "thread_local": other lanes go on meanwhile, and may allocate.
        with (
            torch.inference_mode(),
            torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode="thread_local",
            ),
        ):
            outputs = call(inputs)

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay, outputs

    def wait(self) -> None:
        """Return when all that was begun in the stream is done; other threads go on meanwhile."""
        self._done.record(self._stream)
        self._done.synchronize()

    def _dtype(self, like: torch.Tensor | np.ndarray[Any, Any]) -> torch.dtype:
        if isinstance(like, np.ndarray):
            return self._torch.from_numpy(np.empty(0, like.dtype)).dtype
        return like.dtype
