"""The bound against its definition, and against what LoadGen itself has printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from mlserve_cli.bench.load.early_stopping import chance, holds, least_total, most_over


@given(
    st.integers(1, 20_000),
    st.integers(0, 400),
    st.sampled_from([50.0, 90.0, 99.0, 99.9]),
)
def test_the_chance_is_the_binomial_distribution(total, over, percentile):
    expected = binom.cdf(over, total, 1 - percentile / 100)
    assert chance(total, over, percentile) == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_it_takes_459_answers_in_time_to_say_anything_of_a_99th_percentile():
    assert least_total(99) == 459
    assert holds(459, 0, 99)
    assert not holds(458, 0, 99)
    assert most_over(458, 99) == -1


@pytest.mark.parametrize(
    ("queries", "discarded"), [(2048, 172), (2116, 178), (2145, 181), (4_776_846, 476_158)]
)
def test_as_many_may_be_over_as_loadgens_logs_of_single_streams_say(queries, discarded):
    # "Would discard N highest latency queries" of MLPerf's published mlperf_log_summary files: it
    # prints one less than may be over, since the slowest of those is the estimate itself.
    assert most_over(queries, 90) == discarded + 1


def test_loadgen_needs_64_queries_with_one_over_a_90th_percentile():
    assert least_total(90, 1) == 64


@given(st.integers(459, 200_000))
def test_one_more_over_than_the_most_no_longer_holds(total):
    most = most_over(total, 99)
    assert holds(total, most, 99)
    assert not holds(total, most + 1, 99)


@given(st.integers(0, 300))
def test_the_fewest_queries_are_the_fewest(over):
    total = least_total(99, over)
    assert holds(total, over, 99)
    assert not holds(total - 1, over, 99)
