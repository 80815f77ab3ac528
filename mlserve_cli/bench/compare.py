"""Two packages side by side: is one faster than the other, beyond what noise would give?

Parent and child take turns in pairs (A B, B A, A B …), so that a machine that slows down slows
both. What counts is the ratio within each pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

from mlserve_cli.bench.subject import Clock, Subject, loaded, timed, with_threads
from mlserve_cli.package.interval import bootstrap
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress, Silent
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.tensors import Array

PAIRS = 16
"""Enough for the interval of a median; an even number, so that each is first equally often."""

MARGIN = 1.02
"""Two loads of one and the same file differ by up to 2 %, by where their memory happens to lie."""

MARGIN_US = 1.0
"""Less than a microsecond a run is where the memory lies too, and nobody could see it: answering
a request costs thirty."""

NO_DIFFERENCE = "no significant difference"
_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The time of one package over another's at one batch size, with its 95 % interval.

    difference_us: how much longer a run of the child takes, in the median.
    """

    batch: int
    median: float
    low: float
    high: float
    pairs: int = PAIRS
    difference_us: float | None = None

    @property
    def slower(self) -> bool:
        """Beyond noise: the whole interval is above 1, by a margin that a person could see."""
        return self.low > 1.0 and self.median > MARGIN and self._visible

    @property
    def faster(self) -> bool:
        """Beyond noise: the whole interval is below 1, by a margin that a person could see."""
        return self.high < 1.0 and self.median < 1 / MARGIN and self._visible

    @property
    def _visible(self) -> bool:
        return self.difference_us is None or abs(self.difference_us) > MARGIN_US

    def facts(self) -> dict[str, Any]:
        """For the evidence and `--json`: time over time, so below 1 is faster."""
        return {
            "batch": self.batch,
            "time_ratio": self.median,
            "low": self.low,
            "high": self.high,
            "interval": "95 %, bootstrap of paired medians",
            "pairs": self.pairs,
            "difference_us": self.difference_us,
            "verdict": "slower" if self.slower else "faster" if self.faster else "no difference",
        }

    def speed_up(self) -> str:
        """For a table: how many times as fast with its interval, or that there is no difference."""
        if not (self.faster or self.slower):
            return NO_DIFFERENCE
        low, high = _factor(1 / self.high), _factor(1 / self.low)
        return f"{_factor(1 / self.median)}{_TIMES} ({low} … {high})"

    def short(self) -> str:
        """How many times faster or slower with its interval, or that it is neither."""
        if self.faster:
            low, high = 1 / self.high, 1 / self.low
            return f"{1 / self.median:.2f}{_TIMES} faster (95 % {low:.2f} … {high:.2f})"
        if self.slower:
            return f"{self.median:.2f}{_TIMES} slower (95 % {self.low:.2f} … {self.high:.2f})"
        return NO_DIFFERENCE

    def sentence(self) -> str:
        """The same, and at which batch size."""
        return f"{self.short()} at batch {self.batch}"


def compare(
    parent: Package,
    child: Package,
    *,
    batch_sizes: Sequence[int] = (1, 8),
    seconds: float = 2.0,
    threads: int = 0,
    progress: Progress | None = None,
    clock: Clock = perf_counter_ns,
) -> list[Ratio]:
    """Measure both in turn and return the ratio child / parent for each batch size.

    seconds: of measurement for a batch size, both together. A slow model takes longer, since each
    is run at least twice in each of the pairs; so does a child that looks slower, since that is
    measured twice. threads: 0 takes the physical cores.
    Raises `EngineError` when one of them cannot be loaded or run.
    """
    progress = progress or Silent()
    options = with_threads(EngineOptions(threads=threads))
    with loaded([parent, child], options=options, clock=clock) as (first, second):
        return [_compare(first, second, batch, seconds, progress, clock) for batch in batch_sizes]


def ratio(batch: int, parent: Array, child: Array) -> Ratio:
    """The ratio child / parent of paired times in nanoseconds, each (pairs,)."""
    ratios = child / parent
    interval = bootstrap(ratios, np.median)
    return Ratio(
        batch=batch,
        median=float(np.median(ratios)),
        low=interval.low,
        high=interval.high,
        pairs=len(ratios),
        difference_us=float(np.median(child - parent)) / 1e3,
    )


def _factor(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _compare(
    parent: Subject,
    child: Subject,
    batch: int,
    seconds: float,
    progress: Progress,
    clock: Clock,
) -> Ratio:
    sides = (parent, child)
    feeds = [side.feeds(batch) for side in sides]
    times: tuple[list[float], list[float]] = ([], [])
    visit = seconds / (2 * PAIRS)

    def time_one(side: int, at_least: int = 2) -> float:
        found = timed(
            sides[side], batch, feeds[side], seconds=visit, at_least=at_least, clock=clock
        )
        return float(np.median(found))

    def take_turns() -> Ratio:
        for pair in range(PAIRS):
            for side in (0, 1) if pair % 2 == 0 else (1, 0):
                times[side].append(time_one(side))
            progress.advance(note=f"batch {batch}")
        return ratio(batch, np.array(times[0]), np.array(times[1]))

    for side in (0, 1):
        time_one(side, 3)  # first visits of a batch size are slow; they are not counted
    found = take_turns()
    # To be called slower costs a variant its place, so that is looked at a second time.
    return take_turns() if found.slower else found
