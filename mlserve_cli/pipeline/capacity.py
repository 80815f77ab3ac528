"""What a package takes here: its engine timed alone, then a server of it under two loads.

The engine's times and the server's overheads are all that `search.queueing` needs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from mlserve_cli.bench.load import ClosedLoop, Generator, Run
from mlserve_cli.errors import MlserveError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline.trial_server import TrialServer, Work
from mlserve_cli.runtime import engines, golden, measuring, sizing
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.hardware import Hardware
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.runtime.tensors import Tensors, rows
from mlserve_cli.search import queueing
from mlserve_cli.search.queueing import Service

USERS = 32
"""Of the closed loop that fills the queue."""

_BUDGET_S = 1.0  # of timing, for each number of threads
_SPREAD_RUNS = 200
_SPREAD_S = 0.5
_FIT_REQUESTS = 1500
_BISECTIONS = 12
_WORTH_SENDING = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What is known of a package here. base: what the machine is sized to without an objective.

    peak_mib: of its server under the fullest load. row_bytes: of inputs and outputs.
    """

    service: Service
    base: Sizing
    largest: int
    row_bytes: int
    peak_mib: float
    lone_ms: float


def measure(
    package: Package, hardware: Hardware, *, rows_each: int, seconds: float, progress: Progress
) -> Capacity:
    """Time the engine and its server. seconds: of each of the two loads.

    Raises `EngineError`, and `StartupError` where its server does not start.
    """
    manifest = package.manifest
    real = golden.read(package.serve)
    count = rows(real.inputs)
    row_bytes = sum(
        array.nbytes for array in (*real.inputs.values(), *real.outputs.values())
    ) // max(count, 1)
    progress.stage(f"timing the engine of {manifest.name}")
    times, spread = _engine_times(package, hardware, real.inputs, rows_each)
    base = _base(package, hardware, times, row_bytes, rows_each)
    service = Service(times=times, spread=spread, rows=rows_each)
    progress.stage(f"asking a server of {manifest.name}")
    settings = Settings(sizing={manifest.name: base})
    with TrialServer(package, settings, rows=rows_each) as server:
        with server.generator() as generator:
            began = server.work()
            lone = _ran(generator, 1, seconds)
            alone = server.work().since(began)
            began = server.work()
            full = _ran(generator, USERS, seconds)
            busy = server.work().since(began)
        peak = server.peak_mib()
    fitted = fit(service, base, lone=lone, alone=alone, full=full, busy=busy)
    return Capacity(
        service=fitted,
        base=base,
        largest=max(size for _, size in times),
        row_bytes=row_bytes,
        peak_mib=peak,
        lone_ms=lone.latency.percentile_ms(50),
    )


def fit(
    service: Service, base: Sizing, *, lone: Run, alone: Work, full: Run, busy: Work
) -> Service:
    """The overheads with which the model answers as the server did.

    slowdown: the engine's time in the server over its time alone. loop_s: what each request takes
    of the loop, so that a full queue is answered at the rate that was seen. fixed_s: what a lone
    request takes beside both.
    """
    slowdown = 1.0
    if busy.requests and busy.batches:
        # A request's compute time is that of its batch: large batches count for more requests.
        usual = max(1, round(busy.rows / busy.batches))
        slowdown = busy.compute_s / busy.requests / service.run_s(base.threads, usual)
    slowed = replace(service, slowdown=min(max(slowdown, 0.5), 4.0))
    loop_s = _loop_s(slowed, base, full.throughput)
    compute_s = alone.compute_s / alone.requests if alone.requests else 0.0
    fixed = lone.latency.percentile_ms(50) / 1e3 - compute_s - loop_s
    return replace(slowed, loop_s=loop_s, fixed_s=max(0.0, fixed))


def _loop_s(service: Service, base: Sizing, throughput: float) -> float:
    """Between nothing and the whole time of a request, by bisection."""
    if throughput <= 0:
        return 0.0
    low, high = 0.0, 1 / throughput
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        played = queueing.saturate(USERS, _FIT_REQUESTS, replace(service, loop_s=middle), base)
        if played.throughput > throughput:
            low = middle
        else:
            high = middle
    return low


def _ran(generator: Generator, users: int, seconds: float) -> Run:
    run = generator.run(ClosedLoop(users), seconds=seconds)
    if run.failures > _WORTH_SENDING * max(run.sent, 1):
        said = ", ".join(f"{count} × {what}" for what, count in (run.statuses | run.errors).items())
        raise MlserveError(f"the server answers its own golden rows with errors: {said}.")
    if run.interrupted:
        raise KeyboardInterrupt
    return run


def _engine_times(
    package: Package, hardware: Hardware, real: Tensors, rows_each: int
) -> tuple[dict[tuple[int, int], float], tuple[float, ...]]:
    """Medians by threads and rows; and single runs of one request relative to their median."""
    manifest = package.manifest
    times: dict[tuple[int, int], float] = {}
    spread: tuple[float, ...] = (1.0,)
    for threads in sizing.thread_counts(hardware.physical_cores):
        engine = engines.open_package(package.path, manifest, EngineOptions(threads=threads))
        try:
            for timed in measuring.growing(
                engine, manifest, real, budget_s=_BUDGET_S, largest=sizing.LARGEST_BATCH["cpu"]
            ):
                times[threads, timed.rows] = timed.seconds
            if len(spread) == 1:
                spread = _spread(engine, manifest, real, rows_each)
        finally:
            engine.close()
    return times, spread


def _spread(
    engine: engines.Engine, manifest: Manifest, real: Tensors, rows_each: int
) -> tuple[float, ...]:
    inputs = measuring.tiled(real, manifest.fixed_batch or rows_each)
    found: list[float] = []
    end = time.perf_counter() + _SPREAD_S
    while len(found) < _SPREAD_RUNS and (time.perf_counter() < end or len(found) < 10):
        began = time.perf_counter()
        engine.run(inputs)
        found.append(time.perf_counter() - began)
    return tuple((np.array(found) / np.median(found)).tolist())


def _base(
    package: Package,
    hardware: Hardware,
    times: dict[tuple[int, int], float],
    row_bytes: int,
    rows_each: int,
) -> Sizing:
    manifest = package.manifest
    found = sizing.choose(
        hardware, times, manifest, row_bytes=row_bytes, weight_bytes=manifest.weight_bytes
    )
    if found.max_batch >= rows_each or manifest.batch.max_batch == 1:
        return found
    return msgspec.structs.replace(found, max_batch=rows_each)
