"""From tensors to tensors: checks, splitting, batching. It knows no protocol."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np

from .errors import InvalidRequest, Overloaded
from .feedback.memory import Asked, Memory
from .processing import Processor
from .registry import LoadedModel
from .tensors import Array, Tensors, check, rows
from .threads import Threads
from .timing import Timing


class Hold:
    """Bytes of a request that is here and not tensors yet; they count until they are let go."""

    __slots__ = ("_plane", "_size")

    def __init__(self, plane: DataPlane, size: int) -> None:
        self._plane = plane
        self._size = size

    def grow(self, size: int) -> None:
        """That many more came in. Raises `Overloaded` where there is no room for them."""
        self._plane.bytes_in_flight += size
        self._size += size
        self._plane.check(self._size)

    def let_go(self) -> None:
        """They are tensors now, or nothing; to do it twice is no mistake."""
        self._plane.bytes_in_flight -= self._size
        self._size = 0

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *failure: object) -> None:
        self.let_go()


class DataPlane:
    """Answers requests with loaded models. One a server; it lives on the event loop.

    max_payloads: of one model that may be in processing or wait for it; more are refused.
    max_bytes: of inputs that may be in memory at the same time, as bodies that are decoded or as
    tensors; more are refused, but one request of any size is taken while there are no others.
    memory: of answers, so that the truth can be joined to them.
    """

    def __init__(
        self,
        *,
        processing_threads: int,
        max_payloads: int,
        max_bytes: int = 1 << 30,
        memory: Memory | None = None,
    ) -> None:
        self._threads = Threads(processing_threads)
        self._max_payloads = max_payloads
        self._max_bytes = max_bytes
        self._memory = memory
        self._payloads: dict[LoadedModel, int] = {}
        self.bytes_in_flight = 0

    def limit(self, *, max_payloads: int, max_bytes: int) -> None:
        """Take newcomers by other limits from now on."""
        self._max_payloads = max_payloads
        self._max_bytes = max_bytes

    async def infer(
        self,
        model: LoadedModel,
        tensors: Tensors,
        *,
        deadline: float | None = None,
        priority: int = 0,
        timing: Timing | None = None,
        asked: Asked | None = None,
    ) -> Tensors:
        """Check `tensors` against the signature and answer all rows.

        deadline: by `time.monotonic`. priority: 1 is the most urgent; 0 means the usual one.
        timing: filled in. asked: the request, where its answer may be remembered. More rows than a
        batch may have are split and answered as one. Raises `InvalidRequest`, and what the batcher
        raises.
        """
        manifest = model.manifest
        check(manifest.inputs, tensors, model=manifest.name)
        if manifest.finite_inputs:
            _check_finite(tensors, manifest.name)
        count = rows(tensors)
        batcher = model.batcher
        size = 0
        for array in tensors.values():
            size += array.nbytes
        self._take(size)
        try:
            if count <= batcher.max_batch or not all(spec.has_batch for spec in manifest.inputs):
                outputs = await batcher.run(
                    tensors, count, deadline, priority=priority, timing=timing
                )
            else:
                outputs = await _split(model, tensors, count, deadline, priority, timing)
        finally:
            self.bytes_in_flight -= size
        remembered = None
        if self._memory is not None and asked is not None:
            remembered = self._memory.remember(asked, manifest, outputs, count)
        for shadow in model.shadows:
            shadow.copy(model, tensors, outputs, count, remembered=remembered)
        return outputs

    async def predict(
        self,
        model: LoadedModel,
        body: bytes,
        content_type: str,
        *,
        deadline: float | None = None,
        priority: int = 0,
        timing: Timing | None = None,
        asked: Asked | None = None,
    ) -> list[Any]:
        """A payload as the package's processing takes it → one JSON value a row.

        Raises what processing and `infer` raise, and `Overloaded` where too much waits already.
        """
        payloads = self._payloads.get(model, 0)
        if payloads >= self._max_payloads:
            raise Overloaded(f"{payloads} payloads wait to be decoded", retry_after_s=1)
        processor = model.processor
        began = time.perf_counter()
        self._take(len(body))
        self._payloads[model] = payloads + 1
        try:
            read, tensors = await self._threads.run(
                model, lambda: _decoded(processor, body, content_type), deadline
            )
        finally:
            self.bytes_in_flight -= len(body)
            self._payloads[model] -= 1
            if not self._payloads[model]:
                del self._payloads[model]
        decoded = time.perf_counter()
        outputs = await self.infer(
            model, tensors, deadline=deadline, priority=priority, timing=timing, asked=asked
        )
        computed = time.perf_counter()
        answers = await self._threads.run(model, lambda: processor.answers(outputs, read), deadline)
        seconds = decoded - began + time.perf_counter() - computed
        model.metrics.processed(seconds)
        if timing is not None:
            timing.processing_s += seconds
        return answers

    def hold(self, size: int) -> Hold:
        """Count the `size` bytes of a body while it is decoded. Raises `Overloaded`.

        Let go of them before `infer` is called, which counts the tensors: nothing counts twice.
        """
        self._take(size)
        return Hold(self, size)

    def receive(self) -> Hold:
        """Count the bytes of a body while it comes in: `grow` by each part, then let go."""
        return Hold(self, 0)

    def check(self, own: int) -> None:
        """Raise `Overloaded` where others and `own` bytes are more together than there may be."""
        if self.bytes_in_flight > self._max_bytes and self.bytes_in_flight > own:
            raise self._overloaded(self.bytes_in_flight - own)

    def close(self) -> None:
        """End the processing threads."""
        self._threads.close()

    def _take(self, size: int) -> None:
        if self.bytes_in_flight + size > self._max_bytes and self.bytes_in_flight:
            raise self._overloaded(self.bytes_in_flight)
        self.bytes_in_flight += size

    def _overloaded(self, size: int) -> Overloaded:
        return Overloaded(
            f"requests of {size} bytes are in memory, and max_inflight_mb allows {self._max_bytes}",
            retry_after_s=1,
        )


def _decoded(processor: Processor, body: bytes, content_type: str) -> tuple[list[Any], Tensors]:
    """The rows of a body, and the tensors that they become."""
    rows = processor.rows(body, content_type)
    return rows, processor.tensors(rows)


async def _split(
    model: LoadedModel,
    tensors: Tensors,
    count: int,
    deadline: float | None,
    priority: int,
    timing: Timing | None,
) -> Tensors:
    """Answer more rows than fit into a batch, as many batches at a time as there are workers.

    The rest waits here, not in the queue, so that others get their turn in between.
    """
    batcher = model.batcher
    size = batcher.max_batch
    starts = iter(range(0, count, size))
    answered: dict[int, Tensors] = {}

    async def lane() -> None:
        for start in starts:  # all lanes take from the same
            answered[start] = await batcher.run(
                {name: array[start : start + size] for name, array in tensors.items()},
                min(size, count - start),
                deadline,
                priority=priority,
                timing=timing,
                admitted=start > 0,  # who was let in is not refused half-way
            )

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(batcher.workers):
                group.create_task(lane())
    except ExceptionGroup as several:  # the others were cancelled for the sake of the first
        raise several.exceptions[0] from None
    parts = [answered[start] for start in range(0, count, size)]
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
