"""Packages times engines, precisions, threads and batch sizes, timed in one interleaved run.

The engines are those that serve, in this process.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from time import perf_counter_ns, process_time_ns
from typing import TYPE_CHECKING

import numpy as np

from mlserve_cli.bench.compare import ratio
from mlserve_cli.bench.footprint import footprint
from mlserve_cli.bench.lineup import Entry, Excluded, lineup, why_not
from mlserve_cli.bench.report import Loaded, Measurement, Report, latency, tail
from mlserve_cli.bench.subject import Clock, Subject, opened, timed
from mlserve_cli.errors import EngineError, StepError
from mlserve_cli.package.interval import bootstrap
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress, Silent
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.measuring import run_golden
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
    hardware = hardware or _detected()
    entries = lineup(
        packages,
        engines=[engine] if engine else (),
        threads=[options.threads] if options else (),
        cores=hardware.physical_cores,
    )
    return measure(
        entries,
        batch_sizes=batch_sizes,
        seconds=seconds,
        options=options,
        progress=progress,
        seed=seed,
        clock=clock,
        hardware=hardware,
    )


def measure(
    entries: Sequence[Entry],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seconds: float = SECONDS,
    options: EngineOptions | None = None,
    alone: bool = False,
    exclude: bool = False,
    excluded: Sequence[Excluded] = (),
    progress: Progress | None = None,
    seed: int = 0,
    clock: Clock = perf_counter_ns,
    hardware: Hardware | None = None,
) -> Report:
    """Time all entries, interleaved; the first of them is what the others are held to.

    alone: load each once more in a process of its own, to see its memory and how it wakes up.
    exclude: one that cannot run is named in the report, and the rest goes on; else it raises
    `EngineError`, which it does in any case where none can run. excluded: those that are known to
    be none already.
    """
    if not entries:
        raise StepError("there is no package to measure.")
    from mlserve_cli.bench.surroundings import Surroundings

    progress = progress or Silent()
    hardware = hardware or _detected()
    surroundings = Surroundings(hardware)
    progress.stage("loading", total=len(entries))
    with ExitStack() as stack:
        subjects, loaded, refused = _load(
            entries, options, hardware, stack, exclude, progress, clock
        )
        run = _Run(subjects, batch_sizes, seconds, exclude, seed, clock)
        run.rounds(progress)
        refused += run.excluded
        measurements = tuple(
            _measurement(subject, batch, visits, run.visits.get((0, batch)) if number else None)
            for (number, batch), visits in run.visits.items()
            for subject in [subjects[number]]
        )
    if alone:
        loaded = _alone(loaded, batch_sizes, progress)
    doubtful = [*surroundings.doubts(), *_few(measurements), *_other_answers(loaded)]
    return Report(
        hardware=hardware,
        packages=tuple(loaded),
        measurements=measurements,
        excluded=(*excluded, *refused),
        warnings=tuple(doubtful),
        libraries=_libraries(),
    )


def _load(
    entries: Sequence[Entry],
    options: EngineOptions | None,
    hardware: Hardware,
    stack: ExitStack,
    exclude: bool,
    progress: Progress,
    clock: Clock,
) -> tuple[list[Subject], list[Loaded], list[Excluded]]:
    """Load what can be loaded, each asked for a first answer; all are asked the same where their
    inputs are."""
    head = entries[0].package
    real = golden.read(head.serve).inputs
    subjects: list[Subject] = []
    loaded: list[Loaded] = []
    excluded: list[Excluded] = []
    for entry in entries:
        package = entry.package
        progress.advance(note=entry.label)
        try:
            reason = why_not(entry, hardware)
            if reason is not None:
                raise EngineError(f"'{entry.label}' cannot run: {reason}.")
            same = package.manifest.inputs == head.manifest.inputs
            subject = opened(
                package,
                entry.label,
                entry.setting,
                options=options,
                real=real if same else golden.read(package.serve).inputs,
                clock=clock,
            )
            stack.callback(subject.engine.close)
            first_ms, difference = _first(subject, clock)
        except EngineError as error:
            if not exclude:
                raise
            excluded.append(Excluded(label=entry.label, reason=_why(error, entry.label)))
            continue
        subjects.append(subject)
        loaded.append(
            Loaded(
                package=package,
                label=entry.label,
                setting=entry.setting,
                load_ms=subject.load_ms,
                first_ms=first_ms,
                size_bytes=package.size_bytes,
                difference=difference,
                origin=entry.origin,
            )
        )
    if not subjects:
        raise EngineError(
            f"not one of {len(entries)} combinations can run here: "
            + "; ".join(f"{each.label}: {each.reason}" for each in excluded)
            + "."
        )
    return subjects, loaded, excluded


def _why(error: EngineError, label: str) -> str:
    found = error.message.rstrip(".").removeprefix(f"'{label}' cannot run: ")
    return f"{found} ({error.hint})" if error.hint else found


def _first(subject: Subject, clock: Clock) -> tuple[float, float | None]:
    """The milliseconds of the first answer, and how far all golden answers are off."""
    kept = golden.read(subject.package.serve)
    feed = subject.feed(1)
    begun = clock()
    try:
        subject.run(feed)
        first_ms = (clock() - begun) / 1e6
        if not kept.outputs:
            return first_ms, None
        found = run_golden(subject.engine, subject.package.manifest, kept.inputs)
    except Exception as error:  # an engine raises its library's own errors
        raise subject.fails(1, error) from error
    differences = [
        golden.relative_difference(array, found[name]) if name in found else float("inf")
        for name, array in kept.outputs.items()
    ]
    return first_ms, max(differences, default=None)


def _alone(
    loaded: Sequence[Loaded], batch_sizes: Sequence[int], progress: Progress
) -> list[Loaded]:
    progress.stage("memory, each in a process of its own", total=len(loaded))
    found = []
    for item in loaded:
        entry = Entry(package=item.package, label=item.label, setting=item.setting)
        found.append(replace(item, footprint=footprint(entry, batch_sizes)))
        progress.advance(note=item.label)
    return found


def _few(measurements: Sequence[Measurement]) -> list[str]:
    """Which percentiles mean little, by how few runs."""
    least = min(measurements, key=lambda found: found.runs)
    names = [f"p{percent:g}" for percent in least.unsure]
    if not names:
        return []
    return [
        f"too few runs for {', '.join(names)}: {least.runs:,} ({least.label}, batch {least.batch})"
    ]


def _other_answers(loaded: Sequence[Loaded]) -> list[str]:
    return [
        f"{item.label} answers other than its package promises, by {item.difference:.2g} of the "
        f"range (allowed {item.package.manifest.tolerance:.2g})"
        for item in loaded
        if item.difference is not None and item.difference > item.package.manifest.tolerance
    ]


def _libraries() -> dict[str, str]:
    """Versions of what computed; one that is not installed did not."""
    from importlib import metadata

    found = {}
    for name in ("onnxruntime", "onnxruntime-ep-openvino", "torch", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


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


@dataclass(frozen=True, slots=True)
class _Visit:
    """times: (runs,) float64 nanoseconds. cpu_s: of all threads; rows: that it was spent on."""

    times: Array
    cpu_s: float
    rows: int


class _Run:
    """All cells, each a subject and a batch size, visited in rounds.

    visits: (number of the subject, batch) → one for each round.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        batch_sizes: Sequence[int],
        seconds: float,
        exclude: bool,
        seed: int,
        clock: Clock,
    ) -> None:
        self._subjects, self._seconds, self._exclude = subjects, seconds, exclude
        self._clock, self._order = clock, random.Random(seed)
        self.visits: dict[tuple[int, int], list[_Visit]] = {
            (number, batch): [] for number in range(len(subjects)) for batch in batch_sizes
        }
        self._feeds = {(n, batch): subjects[n].feeds(batch) for n, batch in self.visits}
        self.excluded: list[Excluded] = []

    def rounds(self, progress: Progress) -> None:
        """Visit every cell once a round. One that fails is left out, or raises `EngineError`."""
        cells = list(self.visits)
        progress.stage("measuring", total=(ROUNDS + 1) * len(cells))
        for turn in range(ROUNDS + 1):
            self._order.shuffle(cells)
            for cell in tuple(cells):
                subject = self._subjects[cell[0]]
                try:
                    visit = self._visit(cell, burn_in=turn == 0)
                except EngineError as error:
                    if not self._exclude:
                        raise
                    cells.remove(cell)
                    del self.visits[cell]
                    self._leave_out(subject, cell[1], error)
                    continue
                if turn:
                    self.visits[cell].append(visit)
                progress.advance(note=f"{subject.label}, batch {cell[1]}")
        if not self.visits:
            reasons = "; ".join(f"{each.label}: {each.reason}" for each in self.excluded)
            raise EngineError(f"not one combination can run here: {reasons}.")

    def _visit(self, cell: tuple[int, int], *, burn_in: bool) -> _Visit:
        subject, batch = self._subjects[cell[0]], cell[1]
        visit = self._seconds / ROUNDS
        before = process_time_ns()
        times = timed(
            subject,
            batch,
            self._feeds[cell],
            # The first round warms up: memory is laid out, kernels are chosen.
            seconds=visit / 4 if burn_in else visit,
            at_least=-(-LEAST_RUNS // ROUNDS),
            clock=self._clock,
        )
        # The first run of a visit is not timed, and computed as well.
        return _Visit(times, (process_time_ns() - before) / 1e9, (len(times) + 1) * batch)

    def _leave_out(self, subject: Subject, batch: int, error: EngineError) -> None:
        reason = error.message.rstrip(".").removeprefix(f"'{subject.label}' ")
        self.excluded.append(Excluded(label=subject.label, batch=batch, reason=reason))


def _measurement(
    subject: Subject, batch: int, visits: list[_Visit], first: list[_Visit] | None
) -> Measurement:
    """The visits, and those of the first package, are paired by round."""
    rounds = [visit.times / 1e6 for visit in visits]
    everything = np.concatenate(rounds)
    medians = np.array([np.median(found) for found in rounds])
    p50, p95, p99 = (float(value) for value in np.percentile(everything, (50, 95, 99)))
    interval = bootstrap(medians, np.median).around(p50)
    against = None
    if first is not None:
        parent = np.array([np.median(found.times) for found in first])
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
        tail=tail(rounds),
        rows_per_s=batch / p50 * 1e3,
        row_by_row=subject.row_by_row and batch > 1,
        cpu_s_per_row=sum(visit.cpu_s for visit in visits) / sum(visit.rows for visit in visits),
        against_first=against,
        latency=latency(rounds),
    )


def keep(report: Report, progress: Progress) -> Report:
    """Append the figures to the evidence of each package."""
    for item in report.packages:
        if report.of(item.label) and item.origin is None:
            item.package.keep_evidence("bench", report.evidence(item), progress)
    return report
