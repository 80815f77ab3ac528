"""Times of an open loop, and the queue that theory makes of them."""

import numpy as np
import pytest

from mlserve_cli.bench.load import schedule
from tests.queue_theory import md1_wait, waits


def test_constant_times_are_equally_far_apart():
    assert schedule.constant(10, 0.5).tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_random_times_have_the_rate_and_exponential_gaps():
    times = schedule.poisson(1000, 50, seed=3)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(50_000, rel=0.02)
    assert times.max() < 50
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # as of an exponential


def test_the_same_seed_gives_the_same_times_and_another_others():
    one, same, other = (schedule.poisson(100, 2, seed=seed) for seed in (1, 1, 2))
    assert one.tolist() == same.tolist()
    assert one.tolist() != other.tolist()


def test_a_rate_that_is_very_low_still_sends_one():
    assert len(schedule.poisson(1e-6, 1.0)) == 1
    assert len(schedule.constant(1e-6, 1.0)) == 1


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_times_make_an_md1_queue(load):
    service = 1e-3
    times = schedule.poisson(load / service, 400, seed=1)
    assert waits(times, service).mean() == pytest.approx(md1_wait(load, service), rel=0.05)
