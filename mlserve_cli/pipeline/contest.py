"""How many threads a package is best run with: a few of them, every number of threads, in turn.

For latency a lone caller is timed. For throughput as many callers run side by side as have room on
the cores, each with its threads: two instances of one thread often answer more than one of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from time import perf_counter_ns

import msgspec
import numpy as np

from mlserve_cli.bench.compare import ratio
from mlserve_cli.bench.subject import Clock, Feed, Subject, loaded, timed
from mlserve_cli.package.interval import bootstrap
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.tensors import Array
from mlserve_cli.search.choice import MARGIN, Target
from mlserve_cli.search.trial import Speed, Trial

ROUNDS = 10
"""Enough for an interval of the medians; each is a visit to every package and number of threads."""

_LEAST_RUNS = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """Somebody who takes part; the first of all is the float model."""

    trial: Trial
    package: Package


@dataclass(frozen=True, slots=True)
class _Setting:
    """threads: of one run. instances: runs side by side."""

    threads: int
    instances: int


_Times = dict[tuple[int, _Setting, int], list[float]]
"""(number of the entry, setting, batch) → the median of each round, in nanoseconds."""


def counts(cores: int) -> tuple[int, ...]:
    """The numbers of threads to try: all cores, and down by halves to one."""
    found = []
    while cores > 1:
        found.append(cores)
        cores //= 2
    return (*found, 1)


def run(
    entries: Sequence[Entry],
    *,
    counts: Sequence[int],
    cores: int,
    target: Target,
    batch_sizes: Sequence[int],
    seconds: float,
    progress: Progress,
    clock: Clock = perf_counter_ns,
) -> list[Trial]:
    """The trials with the threads that each is best run with, and its figures with those.

    They are compared with the first one as that is run best. seconds: for each entry, number of
    threads and batch size.
    Raises `EngineError` when a package cannot be loaded or run.
    """
    settings = [
        _Setting(count, max(1, cores // count) if target == "throughput" else 1) for count in counts
    ]
    times = _time(entries, settings, batch_sizes, seconds, progress, clock)
    chosen = [_best(times, number, settings, batch_sizes, target) for number in range(len(entries))]
    found = []
    for number, (entry, setting) in enumerate(zip(entries, chosen, strict=True)):
        found.append(
            msgspec.structs.replace(
                entry.trial,
                threads=setting.threads,
                instances=setting.instances,
                tuned=tuple(
                    _speed(
                        batch,
                        setting,
                        np.array(times[number, setting, batch]),
                        chosen[0],
                        np.array(times[0, chosen[0], batch]),
                        is_first=number == 0,
                    )
                    for batch in batch_sizes
                ),
            )
        )
    return found


def _time(
    entries: Sequence[Entry],
    settings: Sequence[_Setting],
    batch_sizes: Sequence[int],
    seconds: float,
    progress: Progress,
    clock: Clock,
) -> _Times:
    cells = [
        (number, setting, batch)
        for number in range(len(entries))
        for setting in settings
        for batch in batch_sizes
    ]
    times: _Times = {cell: [] for cell in cells}
    order = Random(0)
    progress.stage("the best, with other numbers of threads", total=ROUNDS * len(cells))
    with ExitStack() as stack:
        subjects: dict[tuple[int, _Setting], Subject] = {}
        for setting in settings:
            options = EngineOptions(threads=setting.threads, streams=setting.instances)
            side = stack.enter_context(
                loaded([entry.package for entry in entries], options=options, clock=clock)
            )
            subjects.update({(number, setting): each for number, each in enumerate(side)})
        most = max(setting.instances for setting in settings)
        pool = stack.enter_context(ThreadPoolExecutor(most))
        feeds = {
            (number, setting, batch): subjects[number, setting].feeds(batch)
            for number, setting, batch in cells
        }
        for turn in range(ROUNDS + 1):
            order.shuffle(cells)
            for number, setting, batch in cells:
                found = _visit(
                    subjects[number, setting],
                    batch,
                    feeds[number, setting, batch],
                    setting.instances,
                    pool,
                    # The first round warms up, and is not counted.
                    seconds / ROUNDS if turn else seconds / ROUNDS / 4,
                    clock,
                )
                if turn:
                    times[number, setting, batch].append(found)
                progress.advance()
    return times


def _visit(
    subject: Subject,
    batch: int,
    feeds: list[Feed],
    callers: int,
    pool: ThreadPoolExecutor,
    seconds: float,
    clock: Clock,
) -> float:
    """The median of one visit, in nanoseconds; of all callers together where there are several."""

    def call(_: int) -> Array:
        return timed(subject, batch, feeds, seconds=seconds, at_least=_LEAST_RUNS, clock=clock)

    found: Iterator[Array] = pool.map(call, range(callers)) if callers > 1 else map(call, [0])
    return float(np.median(np.concatenate(list(found))))


def _best(
    times: _Times,
    number: int,
    settings: Sequence[_Setting],
    batch_sizes: Sequence[int],
    target: Target,
) -> _Setting:
    """The setting that costs least; the fewest threads that cost the same: the others are free."""

    def cost(setting: _Setting) -> float:
        each = {
            batch: float(np.median(times[number, setting, batch])) / (setting.instances * batch)
            for batch in batch_sizes
        }
        return min(each.values()) if target == "throughput" else each[min(batch_sizes)]

    least = min(cost(setting) for setting in settings)
    near = [setting for setting in settings if cost(setting) <= least * MARGIN]
    return min(near, key=lambda setting: setting.threads)


def _speed(
    batch: int,
    setting: _Setting,
    mine: Array,
    first_setting: _Setting,
    first: Array,
    *,
    is_first: bool,
) -> Speed:
    """Medians of rounds in nanoseconds → milliseconds, and rows against rows."""
    p50 = float(np.median(mine)) / 1e6
    interval = bootstrap(mine / 1e6, np.median).around(p50)
    # Time for a row, as so many are answered side by side.
    against = ratio(batch, first / first_setting.instances, mine / setting.instances)
    return Speed(
        batch=batch,
        p50_ms=p50,
        p50_low_ms=interval.low,
        p50_high_ms=interval.high,
        rows_per_s=batch * setting.instances / p50 * 1e3,
        speed_up=1.0 if is_first else 1 / against.median,
        speed_up_low=1.0 if is_first else 1 / against.high,
        speed_up_high=1.0 if is_first else 1 / against.low,
    )
