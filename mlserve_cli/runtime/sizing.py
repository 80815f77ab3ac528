"""How a model is run on this machine: threads, instances and the largest batch, each measured.

`measure` times the model at growing batches with its own golden rows; `choose` turns the times
into numbers, and says why.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from . import engines, golden
from .engines import Engine, EngineOptions
from .errors import EngineError
from .hardware import Hardware
from .manifest import SERVE, Manifest
from .tensors import Tensors, rows

INLINE_S = 0.0002
"""A hop to a thread costs up to half of this; a slower engine would hold the event loop up."""

INLINE_BATCH_S = 0.002
"""The longest that a batch may hold the event loop up."""

LONGEST_BATCH_S = 0.1
"""A batch that takes longer makes its first request wait too long for its last."""

LARGEST_BATCH = {"cpu": 64, "cuda": 1024}
"""More gains nothing measurable on CPUs and costs memory and waiting; GPUs begin to be full."""

WORTH = 1.05
"""A batch of twice the rows has to bring this many times the rows a second."""

SPLIT_WORTH = 1.15
"""Many one-thread instances must beat one many-thread instance by this: its lone requests are
slower by up to the number of cores."""

MEMORY_SHARE = 0.25
"""Of the memory (a GPU's own, there), what the inputs and outputs of its batches may take."""


class Sizing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one model is run.

    threads: for the arithmetic of one run. streams: of the engine. instances: batches that run at
    the same time. inline: on the event loop, for engines that are faster than a hop to a thread.
    device: "cpu", or "cuda", which spreads the instances over the GPUs.
    """

    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    instances: Annotated[int, Meta(ge=1, le=256)] = 1
    max_batch: Annotated[int, Meta(ge=1, le=65536)] = 32
    max_delay_ms: Annotated[float, Meta(ge=0, le=10_000)] = 0.0
    inline: bool = False
    device: Annotated[str, Meta(pattern=r"^(cpu|cuda(:[0-9]+)?)$")] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    streams: Annotated[int, Meta(ge=1, le=256)] = 1
    reasons: dict[str, str] = {}  # field → why; comments in server.toml

    def options(self, instance: int = 0, gpus: int = 1) -> EngineOptions:
        """How the engine of one instance is loaded."""
        device = self.device
        if device == "cuda":
            device = f"cuda:{instance % max(gpus, 1)}"
        return EngineOptions(
            threads=self.threads, streams=self.streams, precision=self.precision, device=device
        )


Latencies = Mapping[tuple[int, int], float]
"""(threads, rows) → seconds for the batch."""


def choose(
    hardware: Hardware,
    latencies: Latencies,
    manifest: Manifest,
    *,
    row_bytes: int = 0,
    device: str = "cpu",
) -> Sizing:
    """Turn measured latencies into numbers. Deterministic.

    row_bytes: of the inputs and outputs of one row.
    """
    reasons: dict[str, str] = {}
    threads, instances = _threads(hardware, latencies, device, reasons)
    mine = {batch: seconds for (count, batch), seconds in latencies.items() if count == threads}
    single = mine[min(mine)]
    inline = device == "cpu" and single < INLINE_S
    if inline:
        instances = 1
        reasons["inline"] = (
            f"a row takes {single * 1e6:.0f} µs, less than a hop to a thread is worth"
        )
        reasons["instances"] = "one: it runs on the event loop"
    max_batch = _max_batch(mine, manifest, hardware, row_bytes, instances, inline, device, reasons)
    return Sizing(
        threads=threads,
        instances=instances,
        max_batch=max_batch,
        inline=inline,
        device=device,
        reasons=reasons,
    )


def measure(
    package: Path, manifest: Manifest, hardware: Hardware, *, budget_s: float = 1.0
) -> Sizing:
    """Time the model with its golden rows for about `budget_s`, and choose.

    A server calls this only where `server.toml` has no numbers. Raises `EngineError`.
    """
    sample = golden.read(package / SERVE)
    device = _device(hardware)
    counts = sorted({hardware.physical_cores, 1}, reverse=True) if device == "cpu" else [1]
    latencies: dict[tuple[int, int], float] = {}
    for threads in counts:
        options = EngineOptions(threads=threads, device="cuda:0" if device == "cuda" else "cpu")
        engine = engines.open_package(package, manifest, options)
        try:
            largest = LARGEST_BATCH[device]
            share_s = budget_s / len(counts)
            for batch, seconds in _time(engine, manifest, sample.inputs, share_s, largest):
                latencies[threads, batch] = seconds
        finally:
            engine.close()
    count = rows(sample.inputs)
    tensors = (*sample.inputs.values(), *sample.outputs.values())
    return choose(
        hardware,
        latencies,
        manifest,
        row_bytes=sum(array.nbytes for array in tensors) // count,
        device=device,
    )


def tiled(tensors: Tensors, count: int) -> Tensors:
    """`count` rows of real ones, the first again after the last; scalars as they are."""
    index = np.arange(count) % rows(tensors)
    return {
        name: np.ascontiguousarray(array[index]) if array.ndim else array
        for name, array in tensors.items()
    }


def _time(
    engine: Engine, manifest: Manifest, real: Tensors, budget_s: float, largest: int
) -> list[tuple[int, float]]:
    """(rows, median seconds) at 1, 2, 4 … rows, until the budget or the point of it is spent."""
    only = manifest.fixed_batch or manifest.batch.max_batch
    found: list[tuple[int, float]] = []
    end = time.perf_counter() + budget_s
    batch = only or 1
    while True:
        inputs = tiled(real, batch)
        run_golden(
            engine, manifest, inputs
        )  # a first visit to a batch size is 2 to 10 times slower
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
        found.append((batch, seconds))
        batch *= 2
        if only or batch > largest or seconds > LONGEST_BATCH_S or time.perf_counter() > end:
            return found


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


def _threads(
    hardware: Hardware, latencies: Latencies, device: str, reasons: dict[str, str]
) -> tuple[int, int]:
    """(threads, instances)."""
    cores = hardware.physical_cores
    counts = sorted({threads for threads, _ in latencies}, reverse=True)
    whole, least = counts[0], counts[-1]
    if device == "cuda":
        gpus = max(1, len(hardware.gpus))
        reasons["instances"] = f"one for each of {gpus} GPU{'s' if gpus > 1 else ''}"
        return whole, gpus
    reasons["instances"] = "one: its runs take all the cores"
    if len(counts) == 1:
        reasons["threads"] = f"{whole} core{'s' if whole > 1 else ''} may be used"
        return whole, 1
    if latencies[least, _first(latencies, least)] < INLINE_S:
        reasons["threads"] = f"{least}: more would wait for each other longer than they compute"
        return least, 1
    best = {
        threads: max(
            max(1, cores // threads) * batch / seconds
            for (count, batch), seconds in latencies.items()
            if count == threads
        )
        for threads in counts
    }
    if best[least] <= SPLIT_WORTH * best[whole]:
        reasons["threads"] = (
            f"the {whole} cores that this process may use: {best[whole]:,.0f} rows/s"
        )
        return whole, 1
    instances = max(1, cores // least)
    reasons["threads"] = (
        f"{instances} instances of {least} answer {best[least]:,.0f} rows/s, "
        f"one with {whole} threads {best[whole]:,.0f}"
    )
    reasons["instances"] = f"one for each of {instances} cores"
    return least, instances


def _first(latencies: Latencies, threads: int) -> int:
    return min(batch for count, batch in latencies if count == threads)


def _max_batch(
    mine: Mapping[int, float],
    manifest: Manifest,
    hardware: Hardware,
    row_bytes: int,
    instances: int,
    inline: bool,
    device: str,
    reasons: dict[str, str],
) -> int:
    fixed = manifest.fixed_batch
    if fixed is not None:
        reasons["max_batch"] = f"the model takes {fixed} rows at once"
        return fixed
    if manifest.batch.max_batch == 1:
        reasons["max_batch"] = f"one row at a time: {manifest.batch.reason}"
        return 1
    longest = INLINE_BATCH_S if inline else LONGEST_BATCH_S
    sizes = sorted(mine)
    chosen = sizes[0]
    why = "a larger batch was not measured"
    for batch in sizes[1:]:
        if mine[batch] > longest:
            why = f"{batch} rows take {mine[batch] * 1e3:.1f} ms, over {longest * 1e3:.0f}"
            break
        chosen = batch
    fastest = max(size / mine[size] for size in sizes if size <= chosen)
    enough = next(size for size in sizes if size / mine[size] * WORTH >= fastest)
    if enough < chosen:
        chosen, why = enough, "more rows bring less than 5 % more"
    memory = _memory(hardware, instances, device)
    if row_bytes and memory:
        room = int(memory * MEMORY_SHARE / row_bytes)
        if room < chosen:
            chosen, why = max(1, room), "more would take over a quarter of the memory"
    reasons["max_batch"] = (
        f"{chosen / mine[_measured(mine, chosen)]:,.0f} rows/s in "
        f"{mine[_measured(mine, chosen)] * 1e3:.2f} ms; {why}"
    )
    return chosen


def _memory(hardware: Hardware, instances: int, device: str) -> int:
    """What one instance may have, in bytes; 0 where that is not known."""
    if device == "cuda":
        return min((gpu.memory_bytes for gpu in hardware.gpus), default=0)
    return hardware.memory_bytes // instances


def _measured(mine: Mapping[int, float], batch: int) -> int:
    """The measured size at or below `batch`."""
    return max((size for size in mine if size <= batch), default=min(mine))


def _device(hardware: Hardware) -> str:
    if not hardware.gpus:
        return "cpu"
    import onnxruntime as ort

    return "cuda" if "CUDAExecutionProvider" in ort.get_available_providers() else "cpu"
