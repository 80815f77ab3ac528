"""Packages times batch sizes, timed in one interleaved run of the engines in this process."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from mlserve_cli.bench.compare import ratio
from mlserve_cli.bench.report import Loaded, Measurement, Report
from mlserve_cli.bench.subject import Clock, Subject, loaded, timed, with_threads
from mlserve_cli.errors import StepError
from mlserve_cli.package.interval import bootstrap
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress, Silent
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    from mlserve_cli.runtime.hardware import Hardware

BATCH_SIZES = (1, 8, 32)
SECONDS = 1.5

ROUNDS = 12
"""Every package is visited this often at each batch size, in another order each time."""

LEAST_RUNS = 20


def bench(
    packages: Sequence[Package],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seconds: float = SECONDS,
    engine: str | None = None,
    options: EngineOptions | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    clock: Clock = perf_counter_ns,
    hardware: Hardware | None = None,
) -> Report:
    """Time every package at every batch size, interleaved in rounds whose order is shuffled.

    seconds: for each package and batch size; a slow model takes longer, since nothing is said
    from fewer than `LEAST_RUNS` runs. engine: this one for all, in place of their own.
    options.threads: 0 takes the physical cores that this process may use.
    Raises `EngineError` when a package cannot be loaded or run.
    """
    if not packages:
        raise StepError("there is no package to measure.")
    progress = progress or Silent()
    hardware = hardware or _detected()
    options = with_threads(options or EngineOptions(), hardware)
    warnings = tuple(doubts(hardware))
    progress.stage("loading", total=None)
    with loaded(list(packages), engine=engine, options=options, clock=clock) as subjects:
        times = _rounds(subjects, batch_sizes, seconds, progress, seed, clock)
        return Report(
            engine=engine or packages[0].manifest.engine,
            threads=options.threads,
            hardware=hardware,
            packages=tuple(_loaded(subject) for subject in subjects),
            measurements=tuple(
                _measurement(
                    subject,
                    batch,
                    times[number, batch],
                    times[0, batch] if number else None,
                )
                for number, subject in enumerate(subjects)
                for batch in batch_sizes
            ),
            warnings=warnings,
        )


def doubts(hardware: Hardware, load: float | None = None) -> list[str]:
    """What makes timings on this machine, now, less than certain; a short phrase each."""
    found = []
    load = os.getloadavg()[0] if load is None else load
    if load > hardware.logical_cpus:
        found.append(
            f"the machine is busy with other work (load {load:.1f} on {hardware.logical_cpus} CPUs)"
        )
    if hardware.cpu_quota and hardware.cpu_quota < hardware.logical_cpus:
        found.append(
            f"a quota of {hardware.cpu_quota:g} of {hardware.logical_cpus} CPUs throttles it"
        )
    return found


def _detected() -> Hardware:
    from mlserve_cli.runtime.hardware import detect

    return detect()


def _rounds(
    subjects: list[Subject],
    batch_sizes: Sequence[int],
    seconds: float,
    progress: Progress,
    seed: int,
    clock: Clock,
) -> dict[tuple[int, int], list[Array]]:
    """(number of the subject, batch) → the times of each round."""
    cells = [(number, batch) for number in range(len(subjects)) for batch in batch_sizes]
    feeds = {cell: subjects[cell[0]].feeds(cell[1]) for cell in cells}
    times: dict[tuple[int, int], list[Array]] = {cell: [] for cell in cells}
    visit = seconds / ROUNDS
    at_least = -(-LEAST_RUNS // ROUNDS)
    progress.stage("measuring", total=(ROUNDS + 1) * len(cells))
    order = random.Random(seed)
    for turn in range(ROUNDS + 1):
        order.shuffle(cells)
        for number, batch in cells:
            subject = subjects[number]
            found = timed(
                subject,
                batch,
                feeds[number, batch],
                # The first round warms up: memory is laid out, kernels are chosen.
                seconds=visit if turn else visit / 4,
                at_least=at_least,
                clock=clock,
            )
            if turn:
                times[number, batch].append(found)
            progress.advance(note=f"{subject.label}, batch {batch}")
    return times


def _measurement(
    subject: Subject, batch: int, rounds: list[Array], first: list[Array] | None
) -> Measurement:
    """`rounds`, and those of the first package, hold nanoseconds; paired by round."""
    everything = np.concatenate(rounds) / 1e6
    medians = np.array([np.median(found) for found in rounds]) / 1e6
    p50, p95, p99 = (float(value) for value in np.percentile(everything, (50, 95, 99)))
    interval = bootstrap(medians, np.median).around(p50)
    against = None
    if first is not None:
        parent = np.array([np.median(found) for found in first])
        against = ratio(batch, parent, medians * 1e6)
    return Measurement(
        label=subject.label,
        batch=batch,
        runs=len(everything),
        p50_ms=p50,
        p50_low_ms=interval.low,
        p50_high_ms=interval.high,
        p95_ms=p95,
        p99_ms=p99,
        rows_per_s=batch / p50 * 1e3,
        row_by_row=subject.row_by_row and batch > 1,
        against_first=against,
    )


def _loaded(subject: Subject) -> Loaded:
    return Loaded(
        package=subject.package,
        label=subject.label,
        digest=subject.package.manifest.digest,
        variant=subject.package.manifest.variant,
        load_ms=subject.load_ms,
        size_bytes=subject.package.size_bytes,
    )


def measure(
    paths: Sequence[Path],
    *,
    batch_sizes: Sequence[int],
    seconds: float,
    threads: int,
    engine: str | None,
    progress: Progress,
) -> Report:
    """Open the packages, time them, and append the figures to the evidence of each."""
    report = bench(
        [Package.open(path) for path in paths],
        batch_sizes=batch_sizes,
        seconds=seconds,
        engine=engine,
        options=EngineOptions(threads=threads),
        progress=progress,
    )
    for item in report.packages:
        item.package.keep_evidence("bench", report.evidence(item), progress)
    return report
