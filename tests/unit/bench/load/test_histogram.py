"""Histograms of bounded memory against the values themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlserve_cli.bench.load.histogram import BUCKETS, Histogram, bucket_of, middle_ms
from mlserve_cli.bench.load.job import Tally

LATENCIES = st.integers(min_value=2_000, max_value=3_600_000_000_000)


@given(arrays(np.int64, st.integers(1, 50), elements=LATENCIES))
def test_a_value_is_known_to_a_fifth_of_a_percent(nanoseconds):
    found = middle_ms(bucket_of(nanoseconds))
    assert np.abs(found / (nanoseconds / 1e6) - 1).max() <= 1 / 512


@given(LATENCIES, LATENCIES)
def test_a_longer_latency_is_never_in_a_lower_bucket(one, other):
    low, high = sorted((one, other))
    first, second = bucket_of(np.array([low, high]))
    assert 0 <= first <= second < BUCKETS


def test_what_is_out_of_range_is_in_the_outermost_bucket():
    assert bucket_of(np.array([0, 1, 1 << 62])).tolist() == [0, 0, BUCKETS - 1]


@given(arrays(np.float64, st.integers(1, 300), elements=st.floats(0.01, 1e5)))
def test_percentiles_are_those_of_the_values_by_the_nearest_rank(milliseconds):
    found = Histogram.of(milliseconds)
    for percent in (50.0, 90.0, 99.0, 99.9, 100.0):
        exact = np.percentile(milliseconds, percent, method="inverted_cdf")
        assert found.percentile_ms(percent) == pytest.approx(exact, rel=1 / 256)
    assert found.total == len(milliseconds)
    assert found.mean_ms == pytest.approx(milliseconds.mean(), rel=1e-3)
    assert found.max_ms == pytest.approx(milliseconds.max(), abs=1e-6)


@given(
    arrays(np.float64, st.integers(1, 100), elements=st.floats(0.01, 1e4)),
    arrays(np.float64, st.integers(1, 100), elements=st.floats(0.01, 1e4)),
)
def test_two_histograms_together_are_that_of_all_values(one, other):
    both = Histogram.of(one) + Histogram.of(other)
    whole = Histogram.of(np.concatenate([one, other]))
    assert both.counts.sum(axis=0).tolist() == whole.counts.sum(axis=0).tolist()
    assert (both.sum_ns, both.max_ns) == (whole.sum_ns, whole.max_ns)


def test_a_tally_hands_its_histogram_over_unchanged():
    given_ = Histogram.of(np.random.default_rng(0).exponential(5, 500))
    tally = Tally()
    tally.keep(given_)
    found = tally.latency()
    assert (found.counts == given_.counts).all()
    assert (found.sum_ns, found.max_ns) == (given_.sum_ns, given_.max_ns)


def test_the_interval_of_independent_values_holds_the_percentile_nearly_always():
    hits = 0
    for seed in range(40):
        values = np.random.default_rng(seed).exponential(10, 3000)
        interval = Histogram.of(values).interval_ms(90)
        hits += interval.low <= 10 * np.log(10) <= interval.high
    assert hits >= 34  # 38 expected of an exact 95 % interval


def test_values_that_come_in_bursts_have_a_wider_interval_than_the_same_values_mixed():
    random = np.random.default_rng(0)
    bursts = np.concatenate([random.exponential(5, 2900), random.exponential(200, 100)])
    mixed = random.permutation(bursts)
    burst, spread = (Histogram.of(values).interval_ms(95) for values in (bursts, mixed))
    assert burst.high - burst.low > 2 * (spread.high - spread.low)


def test_an_empty_histogram_has_no_percentiles():
    empty = Histogram.empty()
    assert np.isnan(empty.percentile_ms(99))
    assert np.isnan(empty.interval_ms(99).low)
    assert empty.values_ms().size == 0


def test_the_share_within_a_limit_is_counted():
    found = Histogram.of(np.array([1.0, 2.0, 3.0, 40.0]))
    assert found.share_within(10) == 0.75
    assert found.share_within(100) == 1.0


def test_the_values_to_draw_are_few_and_hold_the_largest():
    values = np.random.default_rng(0).exponential(5, 50_000)
    drawn = Histogram.of(values).values_ms(500)
    assert len(drawn) <= 501
    assert drawn.max() == pytest.approx(values.max(), rel=1e-6)
    assert np.median(drawn) == pytest.approx(np.median(values), rel=0.02)
