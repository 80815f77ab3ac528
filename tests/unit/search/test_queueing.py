"""The queue played through, held to theory and to the rules of the batcher."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.search import queueing
from mlserve_cli.search.queueing import Service

RUN_S = 0.002


def poisson(rate, count, seed=1):
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_instance_without_batches_waits_as_long_as_an_m_d_1_queue(load):
    service = Service(times={(1, 1): RUN_S})
    played = queueing.play(poisson(load / RUN_S, 60_000), service, Sizing(threads=1, max_batch=1))
    waited = played.latencies_s.mean() - RUN_S
    # Pollaczek and Khinchine, for a service time that is always the same.
    assert waited == pytest.approx(load * RUN_S / (2 * (1 - load)), rel=0.1)


def test_a_lone_request_takes_its_run_its_share_of_the_loop_and_what_is_fixed():
    service = Service(times={(1, 1): RUN_S}, slowdown=1.5, loop_s=1e-4, fixed_s=2e-4)
    played = queueing.play(np.array([0.0, 1.0]), service, Sizing(threads=1))
    assert played.latencies_s == pytest.approx(1.5 * RUN_S + 1e-4 + 2e-4)


def test_a_full_queue_is_answered_at_the_rate_of_full_batches():
    times = {(1, 1): 0.002, (1, 8): 0.004}
    played = queueing.saturate(64, 4000, Service(times=times), Sizing(threads=1, max_batch=8))
    assert played.throughput == pytest.approx(8 / 0.004, rel=0.02)
    assert played.batches == pytest.approx(4000 / 8, rel=0.02)


def test_two_instances_answer_twice_as_much_as_one():
    service = Service(times={(1, 1): RUN_S})
    one = queueing.saturate(8, 2000, service, Sizing(threads=1, max_batch=1))
    two = queueing.saturate(8, 2000, service, Sizing(threads=1, max_batch=1, instances=2))
    assert two.throughput == pytest.approx(2 * one.throughput, rel=0.02)


def test_the_event_loop_is_the_limit_where_the_engine_is_none():
    service = Service(times={(1, 1): 1e-6}, loop_s=1e-4)
    played = queueing.saturate(32, 4000, service, Sizing(threads=1, max_batch=32))
    assert played.throughput == pytest.approx(1e4, rel=0.05)


def test_a_run_on_the_loop_keeps_new_requests_out():
    arrivals = np.array([0.0, 0.0001, 0.0002])
    service = Service(times={(1, 1): RUN_S, (1, 4): RUN_S}, loop_s=2e-5)
    inline = queueing.play(arrivals, service, Sizing(threads=1, max_batch=1, inline=True))
    apart = queueing.play(arrivals, service, Sizing(threads=1, max_batch=1))
    assert inline.latencies_s[-1] >= apart.latencies_s[-1]


def test_waiting_for_company_fills_the_batch_and_ends_after_the_delay():
    service = Service(times={(1, 1): RUN_S, (1, 4): RUN_S})
    sizing = Sizing(threads=1, max_batch=4, max_delay_ms=10)
    together = queueing.play(np.array([0.0, 0.001, 0.002, 0.003]), service, sizing)
    assert together.batches == 1
    assert together.latencies_s[0] == pytest.approx(0.003 + RUN_S)
    alone = queueing.play(np.array([0.0]), service, sizing)
    assert alone.latencies_s[0] == pytest.approx(0.010 + RUN_S)


def test_beyond_the_largest_size_that_was_measured_a_batch_takes_as_long_by_its_rows():
    service = Service(times={(1, 1): 0.001, (1, 4): 0.002, (2, 1): 0.5})
    assert service.run_s(1, 2) == pytest.approx(0.001 + 0.001 / 3)
    assert service.run_s(1, 8) == pytest.approx(0.004)


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 0.01), min_size=1, max_size=60),
    max_batch=st.integers(1, 8),
    instances=st.integers(1, 3),
    delay_ms=st.sampled_from([0.0, 1.0, 5.0]),
    inline=st.booleans(),
    loop_s=st.sampled_from([0.0, 1e-4, 1e-3]),
)
def test_every_request_is_answered_once_and_none_before_its_run_is_over(
    gaps, max_batch, instances, delay_ms, inline, loop_s
):
    arrivals = np.cumsum(gaps)
    service = Service(times={(1, 1): 0.001, (1, 8): 0.003}, loop_s=loop_s)
    sizing = Sizing(
        threads=1,
        instances=1 if inline else instances,
        max_batch=max_batch,
        max_delay_ms=delay_ms,
        inline=inline,
    )
    played = queueing.play(arrivals, service, sizing)
    assert len(played.latencies_s) == len(gaps)
    assert (played.latencies_s >= 0.001 + loop_s - 1e-12).all()
    assert len(gaps) / max_batch <= played.batches <= len(gaps)
    # Whoever waits at all is answered within everybody's runs and delays.
    longest = (arrivals[-1] - arrivals[0]) + len(gaps) * (0.003 + loop_s + delay_ms / 1e3)
    assert (played.latencies_s <= longest + 1e-9).all()
