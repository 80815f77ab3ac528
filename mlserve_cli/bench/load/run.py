"""One run of a load: how it was to be, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from mlserve_cli.bench.load.histogram import Histogram
from mlserve_cli.bench.load.job import Tally

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)

BUSY_SHARE = 0.9
"""A process that had work, or waited for a core to do it, for this share of its time may have been
what was measured."""

LATE_SHARE = 0.01
"""So many sent late, and the load was not what it was to be."""

WAITED_SHARE = 0.05
"""So much of its time without a core, and the latencies hold the generator's own waiting."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many users, each of whom asks again as soon as the answer is there."""

    concurrency: int

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {"loop": "closed", "concurrency": self.concurrency}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """`rate` requests a second at times of their own, whether or not the last were answered.

    poisson: at random times, as users come; else equally far apart.
    """

    rate: float
    poisson: bool = False
    seed: int = 0

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        arrivals = "poisson" if self.poisson else "constant"
        return {"loop": "open", "rate_per_s": self.rate, "arrivals": arrivals, "seed": self.seed}


Load = ClosedLoop | OpenLoop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What a load came to, all processes of the generator together.

    latency: of answers, from the moment that a request was sent (closed loop) or was to be sent
    (open loop); requests that were given up are in it with the time until then. seconds: how long
    requests counted. completed: answers inside that time. over: beyond `objective_ms`, or failed.
    busiest: the largest share of its time for which a process of the generator computed. waited:
    the largest share for which one had no core.
    """

    load: Load
    seconds: float
    processes: int
    planned: int
    sent: int
    answered: int
    completed: int
    statuses: dict[str, int]
    errors: dict[str, int]
    latency: Histogram = field(repr=False)
    objective_ms: float | None = None
    over: int = 0
    busiest: float = 0.0
    waited: float = 0.0
    late: int = 0
    late_max_ms: float = 0.0
    late_mean_ms: float = 0.0
    opened: int = 0
    waiting_most: int = 0
    gave_up: bool = False
    interrupted: bool = False
    samples: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)

    @property
    def throughput(self) -> float:
        """Answers with success a second."""
        return self.completed / self.seconds if self.seconds else 0.0

    @property
    def failures(self) -> int:
        """Requests that were answered with an error, or not at all."""
        return sum(self.statuses.values()) + sum(self.errors.values())

    def goodput(self, limit_ms: float) -> float:
        """The share of all requests that were answered with success within `limit_ms`.

        Exact where the limit is the objective of the run, else to the width of a bucket.
        """
        total = self.answered + self.failures
        if not total or not self.latency.total:
            return 0.0
        if limit_ms == self.objective_ms:
            return 1 - self.over / total
        # What was given up has waited longer than any limit that is worth asking for.
        return self.latency.share_within(limit_ms) * self.latency.total / total

    def limits(self) -> list[str]:
        """Where the generator itself may be what was measured; a sentence's worth each."""
        found = []
        if self.busiest + self.waited > BUSY_SHARE:
            found.append(
                f"the generator was at work for {self.busiest + self.waited:.0%} of its time and "
                "may be the bottleneck itself (more --processes, or another machine)"
            )
        if self.sent and self.late > LATE_SHARE * self.sent:
            found.append(
                f"{self.late / self.sent:.0%} of the requests were sent more than 1 ms late (the "
                f"worst {self.late_max_ms:.0f} ms); their latency counts from the scheduled time"
            )
        if self.waited > WAITED_SHARE:
            found.append(
                f"the generator waited for a core for {self.waited:.0%} of its time, and latencies "
                "hold that"
            )
        return found

    def facts(self) -> dict[str, Any]:
        """Every figure, for `--json`."""
        latency: dict[str, Any] = {"mean_ms": _number(self.latency.mean_ms)}
        for percent, value in zip(
            PERCENTILES, self.latency.percentiles_ms(PERCENTILES), strict=True
        ):
            interval = self.latency.interval_ms(percent)
            latency[f"p{percent:g}_ms"] = _number(float(value))
            latency[f"p{percent:g}_low_ms"] = _number(interval.low)
            latency[f"p{percent:g}_high_ms"] = _number(interval.high)
        latency["max_ms"] = _number(self.latency.max_ms)
        facts: dict[str, Any] = {
            **self.load.facts(),
            "seconds": self.seconds,
            "sent": self.sent,
            "answered": self.answered,
            "throughput_per_s": self.throughput,
            "latency": latency,
            "interval": "95 %, bootstrap over 32 stretches of the run",
            "statuses": self.statuses,
            "errors": self.errors,
            "generator": {
                "processes": self.processes,
                "busiest_share": self.busiest,
                "waited_for_a_core_share": self.waited,
                "sent_late": self.late,
                "late_mean_ms": self.late_mean_ms,
                "late_max_ms": self.late_max_ms,
                "connections_opened": self.opened,
                "most_waiting": self.waiting_most,
            },
            "interrupted": self.interrupted,
        }
        if self.objective_ms is not None:
            facts["objective_ms"] = self.objective_ms
            facts["goodput"] = self.goodput(self.objective_ms)
        return facts


def merged(
    load: Load, tallies: list[Tally], *, objective_ms: float | None, interrupted: bool
) -> Run:
    """The tallies of all processes as one run."""
    latency = Histogram.empty()
    statuses: dict[str, int] = {}
    errors: dict[str, int] = {}
    for tally in tallies:
        latency += tally.latency()
        for total, found in ((statuses, tally.statuses), (errors, tally.errors)):
            for name, count in found.items():
                total[name] = total.get(name, 0) + count
    sent = sum(tally.sent for tally in tallies)
    late_sum = sum(tally.late_sum_ns for tally in tallies)
    window = max((tally.window_s for tally in tallies), default=0.0)
    return Run(
        load=load,
        seconds=window,
        processes=len(tallies),
        planned=sum(tally.planned for tally in tallies),
        sent=sent,
        answered=sum(tally.answered for tally in tallies),
        completed=sum(tally.completed for tally in tallies),
        statuses=statuses,
        errors=errors,
        latency=latency,
        objective_ms=objective_ms,
        over=sum(tally.over for tally in tallies),
        busiest=max((_share(tally.cpu_s, tally.window_s) for tally in tallies), default=0.0),
        waited=max((_share(tally.waited_s, tally.window_s) for tally in tallies), default=0.0),
        late=sum(tally.late for tally in tallies),
        late_max_ms=max((tally.late_max_ns for tally in tallies), default=0) / 1e6,
        late_mean_ms=late_sum / sent / 1e6 if sent else 0.0,
        opened=sum(tally.opened for tally in tallies),
        waiting_most=max((tally.waiting_most for tally in tallies), default=0),
        gave_up=any(tally.gave_up for tally in tallies),
        interrupted=interrupted or any(tally.stopped for tally in tallies),
        samples=tuple(sample for tally in tallies for sample in tally.samples),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _number(value: float) -> float | None:
    """NaN is no JSON."""
    return None if math.isnan(value) else value
