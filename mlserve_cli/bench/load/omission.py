"""What a closed loop does not see: users who wait for an answer ask nothing in the meantime.

While a server stands still, each of `c` users has one request in it, and so at most c of thousands
are slow: the percentiles hide it ("coordinated omission", Tene 2013). Users who come at times of
their own would have sent many more into it. The correction is HdrHistogram's
(`recordValueWithExpectedInterval`): beside each latency that is longer than the usual interval
between two requests of a user, those are counted that would have been sent meanwhile. It is an
estimate; an open loop measures.
"""

from __future__ import annotations

import numpy as np

from mlserve_cli.bench.load.histogram import Histogram, bucket_of, middle_ms
from mlserve_cli.bench.load.run import ClosedLoop, Run
from mlserve_cli.runtime.tensors import Array

_WORTH_SAYING = 2.0  # times p99; less lies within what runs differ by
_MOST = 10_000  # requests that one stall is given beside it; more change no percentile


def corrected(latency: Histogram, interval_ms: float) -> Histogram:
    """The latencies that users would have seen who ask every `interval_ms`, answered or not."""
    counts = latency.counts.sum(axis=0)
    used = np.flatnonzero(counts)
    total: Array = counts.copy()
    for bucket, value in zip(used, middle_ms(used), strict=True):
        if value > interval_ms > 0:
            missed = np.arange(value - interval_ms, interval_ms, -max(interval_ms, value / _MOST))
            np.add.at(total, bucket_of((missed * 1e6).astype(np.int64)), counts[bucket])
    return Histogram(total[None, :], latency.sum_ns, latency.max_ns)


def note(run: Run) -> str | None:
    """What a closed loop hides here; None where it is an open one, or hides nothing to speak of."""
    if not isinstance(run.load, ClosedLoop) or not run.latency.total:
        return None
    p50, p99 = run.latency.percentiles_ms((50.0, 99.0))
    estimate = corrected(run.latency, float(p50)).percentile_ms(99)
    if estimate <= _WORTH_SAYING * p99:
        return None
    users = run.load.concurrency
    return (
        f"a closed loop hides stalls: the longest answer took {run.latency.max_ms:,.0f} ms, and "
        f"{'one user' if users == 1 else f'{users} users'} sent nothing else meanwhile. p99 is "
        f"{p99:.3g} ms here, and would be about {estimate:,.3g} ms for requests at times of their "
        f"own (measure it: --rate {max(1, round(run.throughput))})"
    )
