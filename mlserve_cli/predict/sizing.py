"""How a package is run over many rows: a thread a core, each with batches of its own."""

from __future__ import annotations

import time

import msgspec
import numpy as np

from mlserve_cli.package.package import Package
from mlserve_cli.runtime import golden, hardware, measuring, sizing
from mlserve_cli.runtime.engines import Engine, EngineOptions
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.runtime.tensors import rows

USUAL_BATCH = 64
"""Where nobody measured: a job that is over sooner than a measurement."""

WORTH_MEASURING_BYTES = 4 << 20
"""Of input; less is read and answered in a second or two."""

SIZES = (1, 4, 16, 64, 256, 1024)
"""Batches that are measured: tables gain from large ones, and nobody waits for a single row."""

BATCH_BYTES = 32 << 20
"""Of a batch's inputs and outputs; a model's inner tensors are often some times as large."""

LONGEST_BATCH_S = 0.25
"""A model that takes longer for a batch gains nothing from larger ones."""

BUDGET_S = 0.5
"""For the measurement of all sizes, at most: meanwhile the other cores have nothing to do."""

ENOUGH_RUNS, ENOUGH_S = 5, 0.02
"""Of one size, both. The fastest of them counts: what else the machine does only adds to a run."""

BLOCK_ROWS = 4096
"""Rows that are read and prepared at once, where their tensors are small."""

BLOCK_BYTES = 8 << 20
"""Of a block's tensors, where its rows are large."""

AHEAD_BYTES = 64 << 20
"""Of the tensors of blocks that wait for the writer: while a part reaches the disk, which takes a
tenth of a second on a busy one, the others go on."""

PART_ROWS = 65_536
"""Rows of a part of the output: what a job that is killed has to do again."""

PART_ROWS_OF_LARGE = 4096
"""The same where a row is a picture or the like, and takes milliseconds."""

LARGE_ROW_BYTES = 64 << 10


def choose(package: Package, *, threads: int, batch: int | None, input_bytes: int) -> Sizing:
    """Threads, instances and batch. `threads` of one run, 0 for the best; `batch` if it is given.

    Throughput is all that counts here, so on a CPU every core runs batches of its own on a shared
    copy of the weights. Raises `EngineError`.
    """
    manifest = package.manifest
    found = hardware.detect()
    if found.gpus and not threads:
        measured = sizing.measure(package.path, manifest, found, budget_s=BUDGET_S)
        if measured.device != "cpu":
            return measured if batch is None else _with(measured, batch)
    count = threads or 1
    instances = max(1, found.physical_cores // count)
    chosen = Sizing(threads=count, instances=instances, max_batch=batch or USUAL_BATCH)
    only = manifest.fixed_batch or manifest.batch.max_batch
    if only:
        return _with(chosen, only)
    if batch is None and input_bytes >= WORTH_MEASURING_BYTES:
        return _with(chosen, _measured(package, count))
    return chosen


def _with(chosen: Sizing, batch: int) -> Sizing:
    return msgspec.structs.replace(chosen, max_batch=batch)


def _measured(package: Package, threads: int) -> int:
    """The largest batch that brings as many rows a second as any: the larger, the less each costs
    beside the model's own work. Raises `EngineError`."""
    manifest = package.manifest
    sample = golden.read(package.serve)
    room = max(1, BATCH_BYTES // row_bytes(package))
    speeds: dict[int, float] = {}
    engine = package.engine(EngineOptions(threads=threads))
    try:
        for size in SIZES:
            if size > room and speeds:
                break
            tensors = measuring.tiled(sample.inputs, size)
            measuring.run_golden(engine, manifest, tensors)  # a first visit is slower
            times: list[float] = []
            began = time.perf_counter()
            while True:
                before = time.perf_counter()
                engine.run(tensors)
                times.append(time.perf_counter() - before)
                spent = time.perf_counter() - began
                if spent > BUDGET_S / len(SIZES):
                    break
                if len(times) >= ENOUGH_RUNS and spent > ENOUGH_S:
                    break
            speeds[size] = size / min(times)
            if size / speeds[size] > LONGEST_BATCH_S:
                break
    finally:
        engine.close()
    fastest = max(speeds.values())
    return max(size for size, speed in speeds.items() if speed * measuring.WORTH >= fastest)


def row_bytes(package: Package) -> int:
    """Of the inputs and outputs of a row."""
    sample = golden.read(package.serve)
    tensors = (*sample.inputs.values(), *sample.outputs.values())
    total = sum(array.size * 64 if array.dtype.kind == "O" else array.nbytes for array in tensors)
    return int(np.ceil(total / max(1, rows(sample.inputs))))


def block_rows(batch: int, bytes_a_row: int, part: int = PART_ROWS) -> int:
    """A multiple of the batch of about `BLOCK_ROWS` rows, or `BLOCK_BYTES`.

    Parts end where blocks do: with eight or more of them a part is hardly longer than was asked.
    """
    wanted = min(BLOCK_ROWS, BLOCK_BYTES // max(1, bytes_a_row), part // 8)
    return batch * max(1, wanted // batch)


def blocks_ahead(block: int, bytes_a_row: int) -> int:
    """Blocks between the reader and the writer."""
    return min(64, AHEAD_BYTES // max(1, block * bytes_a_row))


def part_rows(bytes_a_row: int) -> int:
    """How many rows a part has where nobody says."""
    return PART_ROWS_OF_LARGE if bytes_a_row > LARGE_ROW_BYTES else PART_ROWS


def load(package: Package, chosen: Sizing) -> tuple[list[Engine], int]:
    """(engines, runs that each takes at the same time). Raises `EngineError`.

    One of a single thread is shared by all instances; of more, each has its own.
    """
    gpus = len(hardware.detect().gpus) if chosen.device != "cpu" else 1
    copies = 1 if chosen.threads == 1 else chosen.instances
    if chosen.device != "cpu":
        copies = max(1, min(chosen.instances, gpus))
    engines: list[Engine] = []
    try:
        for instance in range(copies):
            engine = package.engine(chosen.options(instance, gpus))
            engines.append(engine)
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return engines, max(1, chosen.instances // copies)
