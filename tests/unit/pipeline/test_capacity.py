"""The overheads of a server, found again from what a server with known ones would show."""

import numpy as np
import pytest

from mlserve_cli.bench.load import ClosedLoop, Run
from mlserve_cli.bench.load.histogram import Histogram
from mlserve_cli.pipeline import capacity
from mlserve_cli.pipeline.trial_server import Work
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.search import queueing
from mlserve_cli.search.queueing import Service

SIZING = Sizing(threads=1, max_batch=8)
TIMES = {(1, 1): 0.0005, (1, 8): 0.0015}


def run(users, latencies_s, throughput, seconds=2.0):
    count = int(throughput * seconds)
    return Run(
        load=ClosedLoop(users),
        seconds=seconds,
        processes=1,
        planned=0,
        sent=count,
        answered=count,
        completed=count,
        statuses={},
        errors={},
        latency=Histogram.of(np.asarray(latencies_s) * 1e3),
    )


@pytest.mark.parametrize("loop_s", [5e-5, 4e-4])
def test_the_loops_share_is_found_from_the_rate_of_a_full_queue(loop_s):
    true = Service(times=TIMES, slowdown=1.3, loop_s=loop_s, fixed_s=3e-4)
    lone = queueing.saturate(1, 500, true, SIZING)
    full = queueing.saturate(capacity.USERS, 4000, true, SIZING)
    rows = 4000 / full.batches
    found = capacity.fit(
        Service(times=TIMES),
        SIZING,
        lone=run(1, lone.latencies_s, lone.throughput),
        alone=Work(500, 500 * true.run_s(1, 1), 500, 500),
        full=run(capacity.USERS, full.latencies_s, full.throughput),
        busy=Work(4000, 4000 * true.run_s(1, round(rows)), full.batches, 4000),
    )
    assert found.slowdown == pytest.approx(1.3, rel=0.01)
    again = queueing.saturate(capacity.USERS, 4000, found, SIZING)
    assert again.throughput == pytest.approx(full.throughput, rel=0.05)
    alone = queueing.saturate(1, 500, found, SIZING)
    assert np.median(alone.latencies_s) == pytest.approx(np.median(lone.latencies_s), rel=0.05)


def test_a_server_that_answered_nothing_has_no_overheads():
    found = capacity.fit(
        Service(times=TIMES),
        SIZING,
        lone=run(1, [0.001], 0),
        alone=Work(0, 0, 0, 0),
        full=run(capacity.USERS, [0.001], 0),
        busy=Work(0, 0, 0, 0),
    )
    assert (found.slowdown, found.loop_s) == (1.0, 0.0)
