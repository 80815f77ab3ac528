"""How a model is run on this machine: threads, instances and the largest batch, each measured.

`measure` times the model at growing batches with its own golden rows; `choose` turns the times
into numbers, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from . import engines, golden, measuring
from .engines import EngineOptions
from .golden import Golden
from .hardware import Hardware
from .manifest import SERVE, Manifest
from .measuring import LONGEST_BATCH_S, WORTH, Timed, run_golden, tiled
from .tensors import rows

__all__ = ["Latencies", "Sizing", "choose", "measure", "run_golden", "tiled"]

INLINE_S = 0.0002
"""A hop to a thread costs up to half of this; a slower engine would hold the event loop up."""

INLINE_BATCH_S = 0.002
"""The longest that a batch may hold the event loop up."""

LARGEST_BATCH = {"cpu": 64, "cuda": 1024}
"""More gains nothing measurable on CPUs and costs memory and waiting; GPUs begin to be full."""

SPLIT_WORTH = 1.15
"""More instances of fewer threads must beat fewer of more by this: their lone requests are slower,
by up to the number of threads."""

MEMORY_SHARE = 0.25
"""Of the memory, what the inputs and outputs of its batches may take; and its copies of weights."""

GPU_SHARE = 0.8
"""Of a GPU's free memory, what was measured to be needed: two batches at once, and some air."""


class Sizing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one model is run.

    threads: for the arithmetic of one run. streams: of the engine. instances: batches that run at
    the same time. inline: on the event loop, for engines that are faster than a hop to a thread.
    device: "cpu", or "cuda", which spreads the instances over the GPUs. share: of the cores, beside
    that of other models, while several are busy.
    """

    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    instances: Annotated[int, Meta(ge=1, le=256)] = 1
    max_batch: Annotated[int, Meta(ge=1, le=65536)] = 32
    max_delay_ms: Annotated[float, Meta(ge=0, le=10_000)] = 0.0
    inline: bool = False
    device: Annotated[str, Meta(pattern=r"^(cpu|cuda(:[0-9]+)?)$")] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    streams: Annotated[int, Meta(ge=1, le=256)] = 1
    share: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    reasons: dict[str, str] = {}  # field → why; comments in server.toml

    def options(self, instance: int = 0, gpus: int = 1) -> EngineOptions:
        """How the engine of one instance is loaded; as many streams as instances share it."""
        device = self.device
        on_gpu = device.startswith("cuda")
        copies = 1 if self.threads == 1 else self.instances
        if on_gpu:
            copies = max(1, min(self.instances, gpus))
        if device == "cuda":
            device = f"cuda:{instance % max(gpus, 1)}"
        return EngineOptions(
            threads=self.threads,
            streams=max(self.streams, -(-self.instances // copies)),
            precision=self.precision,
            device=device,
            batches=_doubling(self.max_batch) if on_gpu else (),
        )


def _doubling(largest: int) -> tuple[int, ...]:
    """1, 2, 4 … and the largest itself."""
    sizes = [1 << power for power in range(largest.bit_length()) if 1 << power < largest]
    return (*sizes, largest)


Latencies = Mapping[tuple[int, int], float]
"""(threads, rows) → seconds for the batch."""


def choose(
    hardware: Hardware,
    latencies: Latencies,
    manifest: Manifest,
    *,
    row_bytes: int = 0,
    weight_bytes: int = 0,
    device: str = "cpu",
    fits: int | None = None,
    together: float = 1.0,
) -> Sizing:
    """Turn measured latencies into numbers. Deterministic.

    row_bytes: of the inputs and outputs of one row. weight_bytes: of a copy of the model.
    fits: the most rows that a GPU's memory was seen to hold; None where nobody looked.
    together: what two runs side by side answered on a GPU, relative to one alone.
    """
    reasons: dict[str, str] = {}
    threads, instances = _threads(hardware, latencies, device, together, weight_bytes, reasons)
    mine = {batch: seconds for (count, batch), seconds in latencies.items() if count == threads}
    single = mine[min(mine)]
    inline = device == "cpu" and single < INLINE_S
    if inline:
        instances = 1
        reasons["inline"] = (
            f"a row takes {single * 1e6:.0f} µs, less than a hop to a thread is worth"
        )
        reasons["instances"] = "one: it runs on the event loop"
    max_batch = _max_batch(
        mine, manifest, hardware, row_bytes, instances, inline, device, fits, reasons
    )
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

    A server calls this only where `server.toml` has no numbers, and with less time: they count for
    its own run alone. Raises `EngineError`.
    """
    sample = golden.read(package / SERVE)
    count = rows(sample.inputs)
    tensors = (*sample.inputs.values(), *sample.outputs.values())
    row_bytes = sum(array.nbytes for array in tensors) // count
    if _on_gpu(package, manifest, hardware, sample):
        return _measure_gpu(package, manifest, hardware, sample, row_bytes, budget_s)
    counts = thread_counts(hardware.physical_cores)
    latencies: dict[tuple[int, int], float] = {}
    for threads in counts:
        engine = engines.open_package(package, manifest, EngineOptions(threads=threads))
        try:
            for timed in measuring.growing(
                engine,
                manifest,
                sample.inputs,
                budget_s=budget_s / len(counts),
                largest=LARGEST_BATCH["cpu"],
            ):
                latencies[threads, timed.rows] = timed.seconds
        finally:
            engine.close()
    return choose(
        hardware,
        latencies,
        manifest,
        row_bytes=row_bytes,
        weight_bytes=manifest.weight_bytes,
    )


def thread_counts(cores: int) -> list[int]:
    """The thread counts that are tried: all cores, and down by halves, or quarters of many."""
    step = 2 if cores <= 8 else 4  # each count loads the model again
    counts = []
    while cores > 1:
        counts.append(cores)
        cores //= step
    return [*counts, 1]


def _on_gpu(package: Path, manifest: Manifest, hardware: Hardware, sample: Golden) -> bool:
    """Whether to run it on a GPU: where it can, unless the CPU answers a row at once."""
    if not hardware.gpus:
        return False
    allowed = engines.devices(package, manifest)
    if "cuda" not in allowed:
        return False
    if "cpu" not in allowed:
        return True
    engine = engines.open_package(package, manifest, EngineOptions(threads=1))
    try:
        found = measuring.growing(engine, manifest, sample.inputs, budget_s=0.02, largest=1)
    finally:
        engine.close()
    return found[0].seconds >= INLINE_S


def _measure_gpu(
    package: Path,
    manifest: Manifest,
    hardware: Hardware,
    sample: Golden,
    row_bytes: int,
    budget_s: float,
) -> Sizing:
    options = EngineOptions(threads=1, streams=2, device="cuda:0")
    engine = engines.open_package(package, manifest, options)
    try:
        free = measuring.free_bytes(engine)
        found = measuring.growing(
            engine, manifest, sample.inputs, budget_s=budget_s, largest=LARGEST_BATCH["cuda"]
        )
        best = max(found, key=lambda timed: timed.rows / timed.seconds)
        together = measuring.side_by_side(
            engine, tiled(sample.inputs, best.rows), seconds=best.seconds
        )
    finally:
        engine.close()
    return choose(
        hardware,
        {(1, timed.rows): timed.seconds for timed in found},
        manifest,
        row_bytes=row_bytes,
        device="cuda",
        fits=_fits(found, free),
        together=together,
    )


def _fits(found: Sequence[Timed], free_bytes: int) -> int | None:
    """The most rows of which two batches at once leave a share of the memory free."""
    if not free_bytes:
        return None
    room = free_bytes * GPU_SHARE
    return max(
        (timed.rows for timed in found if 2 * timed.taken_bytes <= room), default=found[0].rows
    )


def _threads(
    hardware: Hardware,
    latencies: Latencies,
    device: str,
    together: float,
    weight_bytes: int,
    reasons: dict[str, str],
) -> tuple[int, int]:
    """(threads, instances)."""
    cores = hardware.physical_cores
    counts = sorted({threads for threads, _ in latencies}, reverse=True)
    whole, least = counts[0], counts[-1]
    if device == "cuda":
        return whole, _on_gpus(max(1, len(hardware.gpus)), together, reasons)
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
    chosen = whole
    for threads in counts[1:]:
        # Instances of one thread share their weights; of more, each has its own.
        copies = 1 if threads == 1 else cores // threads
        room = hardware.memory_bytes * MEMORY_SHARE
        if copies > 1 and hardware.memory_bytes and copies * weight_bytes > room:
            continue
        if best[threads] > SPLIT_WORTH * best[chosen]:
            chosen = threads
    if chosen == whole:
        reasons["threads"] = (
            f"the {whole} cores that this process may use: {best[whole]:,.0f} rows/s"
        )
        return whole, 1
    instances = max(1, cores // chosen)
    reasons["threads"] = (
        f"{instances} instances of {chosen} answer {best[chosen]:,.0f} rows/s, "
        f"one with {whole} threads {best[whole]:,.0f}"
    )
    reasons["instances"] = (
        f"one for each of {instances} cores"
        if chosen == 1
        else f"one for each {chosen} of {cores} cores"
    )
    return chosen, instances


def _on_gpus(gpus: int, together: float, reasons: dict[str, str]) -> int:
    """How many instances they get."""
    each = f"each of {gpus} GPU{'s' if gpus > 1 else ''}"
    if together < WORTH:
        reasons["instances"] = f"one for {each}"
        return gpus
    reasons["instances"] = f"two for {each}: side by side they answer {together:.2f} times as much"
    return 2 * gpus


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
    fits: int | None,
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
    if fits is not None:
        if fits < chosen:
            chosen, why = fits, "more would take over 80 % of the GPU's free memory"
    elif row_bytes and memory:
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
        return min((gpu.free_bytes or gpu.memory_bytes for gpu in hardware.gpus), default=0)
    return hardware.memory_bytes // instances


def _measured(mine: Mapping[int, float], batch: int) -> int:
    """The measured size at or below `batch`."""
    return max((size for size in mine if size <= batch), default=min(mine))
