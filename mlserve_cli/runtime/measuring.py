"""How long a model takes: its golden rows at growing batches, alone and side by side."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np

from .engines import Engine
from .errors import EngineError
from .manifest import Manifest
from .tensors import Tensors, rows

LONGEST_BATCH_S = 0.1
"""A batch that takes longer makes its first request wait too long for its last."""

WORTH = 1.05
"""A batch of twice the rows has to bring this many times the rows a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One batch size: the median of its runs, and what the engine's own memory lost to it.

    taken_bytes: since the model was loaded; 0 where the engine's memory is the process's.
    """

    rows: int
    seconds: float
    taken_bytes: int = 0


def growing(
    engine: Engine, manifest: Manifest, real: Tensors, *, budget_s: float, largest: int
) -> list[Timed]:
    """Times at 1, 2, 4 … rows, until the budget or the point of it is spent.

    The point is spent where four times the rows bring no more rows a second, and where a batch
    takes too long. One that is too large for the engine's memory ends it, too. Raises
    `EngineError`.
    """
    only = manifest.fixed_batch or manifest.batch.max_batch
    found: list[Timed] = []
    end = time.perf_counter() + budget_s
    free = free_bytes(engine)
    batch = only or 1
    while True:
        inputs = tiled(real, batch)
        try:
            # A first visit to a batch size is 2 to 10 times slower.
            run_golden(engine, manifest, inputs)
        except EngineError as error:
            if found and _is_memory(error.__cause__):
                return found
            raise
        times: list[float] = []
        slice_end = time.perf_counter() + budget_s / 8
        while (
            not times
            or (len(times) < 3 and time.perf_counter() < end)
            or (len(times) < 200 and time.perf_counter() < slice_end)
        ):
            began = time.perf_counter()
            engine.run(inputs)
            times.append(time.perf_counter() - began)
        seconds = float(np.median(times))
        taken = max(0, free - free_bytes(engine))
        found.append(Timed(rows=batch, seconds=seconds, taken_bytes=taken))
        batch *= 2
        if only or batch > largest or seconds > LONGEST_BATCH_S or time.perf_counter() > end:
            return found
        if _is_flat(found):
            return found


def _is_flat(found: list[Timed]) -> bool:
    """Whether the last two doublings together brought less than one has to bring.

    A model that one row keeps busy takes seconds for its large batches, and they tell nothing new.
    """
    if len(found) < 3:
        return False
    before, now = found[-3], found[-1]
    return now.rows / now.seconds < WORTH * before.rows / before.seconds


def side_by_side(engine: Engine, inputs: Tensors, *, seconds: float, runs: int = 8) -> float:
    """What two threads answer together, relative to one alone, which takes `seconds` a run.

    A GPU copies one batch while it computes another, where two streams ask it to.
    """
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(runs):
                engine.run(inputs)
        except Exception as error:  # memory for a second batch, above all
            failures.append(error)

    def both() -> float:
        threads = [threading.Thread(target=work) for _ in range(2)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    both()  # the second stream's first visit
    took = both()
    return 0.0 if failures else 2 * runs * seconds / max(took, 1e-9)


def free_bytes(engine: Engine) -> int:
    """What is left of an engine's own memory; 0 where it has the process's."""
    says = getattr(engine, "free_bytes", None)
    return int(says()) if says else 0


def tiled(tensors: Tensors, count: int) -> Tensors:
    """`count` rows of real ones, the first again after the last; scalars as they are.

    What can't be cut into rows, since its tensors have different numbers of them, stays whole.
    """
    if len({len(array) for array in tensors.values() if array.ndim}) > 1:
        return tensors
    index = np.arange(count) % rows(tensors)
    return {
        name: np.ascontiguousarray(array[index]) if array.ndim else array
        for name, array in tensors.items()
    }


def run_golden(engine: Engine, manifest: Manifest, inputs: Tensors) -> Tensors:
    """Run rows that the model ran when it was packaged. Raises `EngineError` where it fails now."""
    try:
        return engine.run(inputs)
    except Exception as error:  # engines raise what they like
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineError(
            f"'{manifest.name}' {manifest.version} fails on its own golden rows, "
            f"{rows(inputs)} at a time: {first}",
            hint="'mlserve verify' says more",
        ) from error


def _is_memory(error: BaseException | None) -> bool:
    """PyTorch has a class for it, ONNX Runtime only a sentence."""
    text = str(error).lower()
    return type(error).__name__ == "OutOfMemoryError" or any(
        part in text for part in ("out of memory", "failed to allocate memory")
    )
