"""The numbers of a server that could meet an objective: which there are, and what each promises."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.search import queueing
from mlserve_cli.search.queueing import Service

REQUESTS = 3000
"""Played through for each: some thirty are beyond the 99th percentile."""

_BISECTIONS = 9
NEAR = 1.05
"""Promises that are no further apart than this factor are alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """rate: requests a second that come; None asks for as many as can be. p99_ms: of each."""

    p99_ms: float
    rate: float | None = None
    rows: int = 1

    @property
    def sentence(self) -> str:
        """For a person."""
        what = f"p99 within {self.p99_ms:g} ms"
        rows = f" of {self.rows} rows" if self.rows > 1 else ""
        if self.rate is None:
            return f"as many requests{rows} a second as keep {what}"
        return f"{self.rate:,g} requests{rows} a second with {what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a sizing would come to: at the rate of the wish, or the highest that it keeps.

    rate, highest_rate, capacity: requests a second; the last with a queue that never empties.
    """

    sizing: Sizing
    rate: float
    p99_ms: float
    highest_rate: float
    capacity: float


def sizings(
    base: Sizing, service: Service, *, cores: int, largest: int, only: int | None = None
) -> Iterator[Sizing]:
    """Every sizing that is worth playing through; `base` comes first.

    base: what the machine is sized to without an objective. largest: batch that was measured.
    only: the one batch size that the model takes.
    """
    yield base
    seen = {_numbers(base)}
    inline_too = base.inline
    for threads in sorted({count for count, _ in service.times}, reverse=True):
        for instances in sorted({1, max(1, cores // max(threads, 1))}):
            for batch in _batches(largest, only, service.rows):
                for delay_ms in (0.0, 1.0, 5.0) if batch > service.rows else (0.0,):
                    for inline in {False, inline_too and threads == base.threads}:
                        if inline and (instances > 1 or delay_ms):
                            continue
                        found = msgspec.structs.replace(
                            base,
                            threads=threads,
                            instances=instances,
                            max_batch=batch,
                            max_delay_ms=delay_ms,
                            inline=inline,
                            reasons={},
                        )
                        if _numbers(found) not in seen:
                            seen.add(_numbers(found))
                            yield found


_LOOKED_INTO = 6
"""Sizings whose highest rate is looked for; that takes ten times as long as one rate."""


def promises(
    found: Sequence[Sizing], service: Service, wish: Wish, *, seed: int = 0
) -> list[Promise]:
    """What the sizings come to, the most promising first; those that are out of it are left out.

    Each is played through once, at the wish's rate or at one that they all might keep; the highest
    rate is then looked for of the best of them.
    """
    capacities = [capacity_of(each, service) for each in found]
    rate = wish.rate if wish.rate is not None else 0.7 * max(capacities)
    late = [
        math.inf if rate > 1.2 * capacity else p99_ms(each, service, rate, seed=seed)
        for each, capacity in zip(found, capacities, strict=True)
    ]
    order = sorted(range(len(found)), key=lambda at: (late[at], -capacities[at]))
    # Above its capacity the p99 of a sizing says little; those with most of it are kept as well.
    order = [*order[: _LOOKED_INTO - 2], *sorted(order, key=lambda at: -capacities[at])[:2]]
    made = [
        _promise(found[at], service, wish, capacities[at], seed=seed) for at in dict.fromkeys(order)
    ]
    return ranked(made, wish)


def _promise(
    sizing: Sizing, service: Service, wish: Wish, capacity: float, *, seed: int
) -> Promise:
    highest = highest_rate(sizing, service, wish.p99_ms, capacity=capacity, seed=seed)
    rate = wish.rate if wish.rate is not None else highest
    late = math.inf if rate > 1.2 * capacity else p99_ms(sizing, service, rate, seed=seed)
    return Promise(sizing=sizing, rate=rate, p99_ms=late, highest_rate=highest, capacity=capacity)


def capacity_of(sizing: Sizing, service: Service, users: int = 64) -> float:
    """Requests a second that a full queue is answered at."""
    return queueing.saturate(users, REQUESTS // 3, service, sizing).throughput


def p99_ms(sizing: Sizing, service: Service, rate: float, *, seed: int = 0) -> float:
    """Of Poisson arrivals at a rate; 0 where there are none."""
    if rate <= 0:
        return 0.0
    gaps = np.random.default_rng(seed).exponential(1 / rate, REQUESTS)
    return queueing.play(np.cumsum(gaps), service, sizing, seed=seed).percentile_ms(99)


def highest_rate(
    sizing: Sizing,
    service: Service,
    limit_ms: float,
    *,
    capacity: float | None = None,
    seed: int = 0,
) -> float:
    """The highest rate whose p99 is within the limit; 0 where even a lone request is over."""
    low, high = 0.0, capacity or capacity_of(sizing, service)
    if p99_ms(sizing, service, high / 100, seed=seed) > limit_ms:
        return 0.0
    if p99_ms(sizing, service, high, seed=seed) <= limit_ms:
        return high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if p99_ms(sizing, service, middle, seed=seed) <= limit_ms:
            low = middle
        else:
            high = middle
    return low


def ranked(promises: Sequence[Promise], wish: Wish) -> list[Promise]:
    """The most promising first: those that keep the wish, by the load that they could still take.

    Of those that promise about the same, the one with fewer threads, instances, rows and less
    waiting comes first: it leaves more of the machine to others.
    """
    most = max((each.highest_rate for each in promises), default=0.0)

    def order(each: Promise) -> tuple[object, ...]:
        keeps = wish.rate is None or each.p99_ms <= wish.p99_ms
        # Where none keeps it, the one that answers most comes nearest.
        most_of = each.highest_rate / most if most and keeps else each.capacity / 1e9
        alike = math.floor(math.log(max(most_of, 1e-12), NEAR) + 0.5)
        sizing = each.sizing
        cost = sizing.threads * sizing.instances
        return (not keeps, -alike, cost, sizing.max_delay_ms, sizing.max_batch, each.p99_ms)

    return sorted(promises, key=order)


def _batches(largest: int, only: int | None, rows: int) -> list[int]:
    if only is not None:
        return [only]
    sizes = []
    size = rows
    while size < largest:
        sizes.append(size)
        size *= 2
    return [*sizes, max(largest, rows)]


def _numbers(sizing: Sizing) -> tuple[object, ...]:
    return (
        sizing.threads,
        sizing.instances,
        sizing.max_batch,
        sizing.max_delay_ms,
        sizing.inline,
    )
