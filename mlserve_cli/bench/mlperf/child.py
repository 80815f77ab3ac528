"""LoadGen's process: it is C++ that cannot be interrupted, and ends the process on an exception."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mlserve_cli.bench.mlperf.system import Sample, System
from mlserve_cli.bench.mlperf.task import SAMPLES_OF_A_STREAM, SCENARIOS, Done, Local, Task
from mlserve_cli.errors import MlserveError

_WARM_UP_S = 0.5
_AT_ONCE = 256  # samples of a query of the warm-up of Offline


def run(task: Task) -> Done:
    """Run one test, and leave LoadGen's logs in the folder."""
    system = _system(task)
    try:
        settings = _settings(task, system)
        _test(task, system, settings)
        return Done(failures=dict(system.answers.failures))
    finally:
        system.close()


def _system(task: Task) -> System:
    target = task.target
    if isinstance(target, Local):
        from mlserve_cli.bench.mlperf.local import LocalSystem

        queued = task.scenario in ("server", "offline")
        return LocalSystem(target, queued=queued, whole=task.accuracy)
    from mlserve_cli.bench.mlperf.remote import GrpcSystem, HttpSystem

    if target.aim.kind == "grpc":
        return GrpcSystem(target, whole=task.accuracy)
    return HttpSystem(target, whole=task.accuracy)


def _settings(task: Task, system: System) -> Any:
    """LoadGen makes all queries before it begins, and has to be told about how many that will be;
    so the system is warmed up, and watched."""
    import mlperf_loadgen as loadgen

    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, SCENARIOS[task.scenario])
    settings.mode = (
        loadgen.TestMode.AccuracyOnly if task.accuracy else loadgen.TestMode.PerformanceOnly
    )
    settings.min_duration_ms = round(task.seconds * 1000)
    settings.min_query_count = task.least_queries
    seeds = ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")
    for number, name in enumerate(seeds):
        setattr(settings, name, task.seed * len(seeds) + number + 1)
    size = {"multi-stream": SAMPLES_OF_A_STREAM, "offline": _AT_ONCE}.get(task.scenario, 1)
    seconds = _warm_up(system, size)
    match task.scenario:
        case "single-stream":
            # Half of what was seen, or it may run out of queries before the time is over.
            settings.single_stream_expected_latency_ns = max(1, int(seconds * 1e9 / 2))
        case "multi-stream":
            settings.multi_stream_expected_latency_ns = max(1, int(seconds * 1e9 / 2))
            settings.multi_stream_samples_per_query = SAMPLES_OF_A_STREAM
        case "server":
            settings.server_target_qps = task.rate
            settings.server_target_latency_ns = int(task.latency_ms * 1e6)
            settings.server_target_latency_percentile = 0.99
        case "offline":
            # A tenth more than what was seen, on top of LoadGen's own tenth.
            settings.offline_expected_qps = 1.1 * size / seconds
    return settings


def _warm_up(system: System, size: int) -> float:
    """The seconds that a query of `size` samples takes, in the median."""
    samples = [Sample(0, number % system.count) for number in range(size)]
    found: list[float] = []
    until = time.perf_counter() + _WARM_UP_S
    while time.perf_counter() < until or len(found) < 3:
        begun = time.perf_counter()
        system.issue(samples)
        for _ in samples:
            system.answers.wait()
        found.append(time.perf_counter() - begun)
    if system.answers.failures:
        why = next(iter(system.answers.failures))
        raise MlserveError(f"nothing is answered: {why}.")
    return sorted(found)[len(found) // 2]


def _test(task: Task, system: System, settings: Any) -> None:
    import mlperf_loadgen as loadgen

    def issue(queries: Sequence[Any]) -> None:
        system.issue([Sample(query.id, query.index) for query in queries])

    def nothing(*_: object) -> None:
        """Samples lie in memory from the start, and nothing is held back."""

    output = loadgen.LogOutputSettings()
    output.outdir = task.folder
    output.copy_summary_to_stdout = False
    logs = loadgen.LogSettings()
    logs.log_output = output
    logs.enable_trace = False
    system.answers.begin()
    library = loadgen.ConstructQSL(system.count, system.count, nothing, nothing)
    tested = loadgen.ConstructSUT(issue, nothing)
    try:
        loadgen.StartTestWithLogSettings(
            tested, library, settings, logs, str(Path(task.folder) / "audit.config")
        )
    finally:
        loadgen.DestroySUT(tested)
        loadgen.DestroyQSL(library)


def main() -> None:
    """Read a task, run it, write what became of it; what LoadGen prints is not in between."""
    out = os.dup(1)
    os.dup2(2, 1)
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Task)
    try:
        done = run(task)
    except MlserveError as error:
        done = Done(problem=error.message)
    with os.fdopen(out, "wb") as told:
        told.write(msgspec.msgpack.encode(done))


if __name__ == "__main__":
    main()
