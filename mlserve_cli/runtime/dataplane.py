"""From tensors to tensors: checks, splitting, batching. It knows no protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from .errors import DeadlineExceeded, InvalidRequest, Overloaded
from .registry import LoadedModel
from .tensors import Array, Tensors, check, rows

T = TypeVar("T")


class DataPlane:
    """Answers requests with loaded models. One a server; it lives on the event loop.

    max_payloads: that may be in processing or wait for it; more are refused.
    """

    def __init__(self, *, processing_threads: int, max_payloads: int) -> None:
        self._threads = processing_threads
        self._max_payloads = max_payloads
        self._payloads = 0
        self._pool: ThreadPoolExecutor | None = None

    async def infer(
        self, model: LoadedModel, tensors: Tensors, *, deadline: float | None = None
    ) -> Tensors:
        """Check `tensors` against the signature and answer all rows.

        deadline: by `time.monotonic`. More rows than a batch may have are split and answered as
        one. Raises `InvalidRequest`, and what the batcher raises.
        """
        manifest = model.manifest
        check(manifest.inputs, tensors, model=manifest.name)
        if manifest.finite_inputs:
            _check_finite(tensors, manifest.name)
        count = rows(tensors)
        if count <= model.batcher.max_batch or not all(spec.has_batch for spec in manifest.inputs):
            return await model.batcher.run(tensors, count, deadline)
        return await _split(model, tensors, count, deadline)

    async def predict(
        self,
        model: LoadedModel,
        body: bytes,
        content_type: str,
        *,
        deadline: float | None = None,
    ) -> list[Any]:
        """A payload as the package's processing takes it → one JSON value a row.

        Raises what processing and `infer` raise, and `Overloaded` where too much waits already.
        """
        if self._payloads >= self._max_payloads:
            raise Overloaded(f"{self._payloads} payloads wait to be decoded", retry_after_s=1)
        processor = model.processor
        began = time.perf_counter()
        self._payloads += 1
        try:
            tensors = await self._process(
                lambda: processor.tensors(processor.rows(body, content_type)), deadline
            )
        finally:
            self._payloads -= 1
        decoded = time.perf_counter()
        outputs = await self.infer(model, tensors, deadline=deadline)
        computed = time.perf_counter()
        answers = await self._process(lambda: processor.answers(outputs), deadline)
        model.metrics.processed(decoded - began + time.perf_counter() - computed)
        return answers

    def close(self) -> None:
        """End the processing threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    async def _process(self, work: Callable[[], T], deadline: float | None) -> T:
        """Run processing on its own threads: a large picture must not hold the loop up."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="processing")

        def in_time() -> T:
            if deadline is not None and deadline <= time.monotonic():
                raise DeadlineExceeded("Request timeout expired")
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._pool, in_time)


async def _split(
    model: LoadedModel, tensors: Tensors, count: int, deadline: float | None
) -> Tensors:
    """Answer more rows than fit into a batch, as many batches at a time as there are workers.

    The rest waits here, not in the queue, so that others get their turn in between.
    """
    size = model.batcher.max_batch
    starts = range(0, count, size)
    parts: list[Tensors] = []
    for first in range(0, len(starts), model.batcher.workers):
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        model.batcher.run(
                            {name: array[start : start + size] for name, array in tensors.items()},
                            min(size, count - start),
                            deadline,
                        )
                    )
                    for start in starts[first : first + model.batcher.workers]
                ]
        except ExceptionGroup as several:  # the others were cancelled for the sake of the first
            raise several.exceptions[0] from None
        parts += [task.result() for task in tasks]
    joined = {name: _joined([part[name] for part in parts]) for name in parts[0]}
    for name, array in joined.items():
        if array is None or array.shape[0] != count:
            raise InvalidRequest(
                f"output '{name}' of model '{model.manifest.name}' has no row for each row of "
                f"the input, so {count} rows cannot be answered as one",
                hint=f"send at most {size} at a time",
            )
    return {name: array for name, array in joined.items() if array is not None}


def _joined(parts: list[Array]) -> Array | None:
    """The rows of all parts; None where they are no rows, or rows of different shapes."""
    if len({part.shape[1:] for part in parts}) > 1 or not parts[0].ndim:
        return None
    return np.concatenate(parts)


def _check_finite(tensors: Tensors, model: str) -> None:
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidRequest(
                f"input '{name}' for model '{model}' holds NaN or infinity, which an int8 model "
                "would answer with a plausible number",
                hint="replace missing values before you send them",
            )
