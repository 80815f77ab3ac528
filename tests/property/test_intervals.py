"""The laws of the intervals that every measurement prints."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve_cli.evaluate.proportions import paired_difference, wilson
from mlserve_cli.package.interval import bootstrap, draws

counts = st.integers(min_value=1, max_value=5000)


@given(counts.flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_score_interval_contains_the_share_and_stays_within_zero_and_one(case):
    right, count = case
    interval = wilson(right, count)
    assert 0.0 <= interval.low <= right / count <= interval.high <= 1.0
    assert interval.low < interval.high


@given(counts.flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_score_interval_of_the_wrong_answers_mirrors_that_of_the_right_ones(case):
    right, count = case
    interval, mirrored = wilson(right, count), wilson(count - right, count)
    assert np.isclose(interval.low, 1 - mirrored.high)
    assert np.isclose(interval.high, 1 - mirrored.low)


@given(counts.flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_score_interval_shrinks_with_more_rows(case):
    right, count = case
    interval, larger = wilson(right, count), wilson(right * 10, count * 10)
    assert larger.high - larger.low < interval.high - interval.low


discordant = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(1, 3000)).map(
    lambda case: (case[0], case[1], case[0] + case[1] + case[2])
)


@given(discordant)
def test_the_paired_interval_contains_the_difference_and_is_never_empty(case):
    lost, won, count = case
    interval = paired_difference(lost, won, count)
    assert -1.0 <= interval.low <= (lost - won) / count <= interval.high <= 1.0
    assert interval.low < interval.high


@given(discordant)
def test_exchanging_the_two_packages_turns_the_paired_interval_around(case):
    lost, won, count = case
    interval, turned = paired_difference(lost, won, count), paired_difference(won, lost, count)
    assert np.isclose(interval.low, -turned.high)
    assert np.isclose(interval.high, -turned.low)


@given(st.integers(1, 10_000))
def test_two_packages_that_agree_on_every_row_may_still_differ_on_the_next(count):
    interval = paired_difference(0, 0, count)
    assert interval.low < 0.0 < interval.high
    assert paired_difference(0, 0, 10 * count).high < interval.high


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(0, 5))
def test_the_bootstrap_interval_contains_the_statistic_and_is_deterministic(values, seed):
    array = np.array(values)
    interval = bootstrap(array, np.mean, seed=seed, resamples=200)
    assert interval.low <= float(np.mean(array)) <= interval.high
    assert interval == bootstrap(array, np.mean, seed=seed, resamples=200)


def test_the_bootstrap_interval_shrinks_with_more_rows():
    random = np.random.default_rng(3)
    few, many = random.normal(size=50), random.normal(size=5000)
    wide, narrow = bootstrap(few, np.mean, resamples=500), bootstrap(many, np.mean, resamples=500)
    assert narrow.high - narrow.low < (wide.high - wide.low) / 4


def test_two_models_see_the_same_draws_of_rows():
    first, second = list(draws(40, resamples=5)), list(draws(40, resamples=5))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0], first[1])


def test_the_score_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(7)
    covered = [
        interval.low <= 0.93 <= interval.high
        for interval in (wilson(int(right), 200) for right in random.binomial(200, 0.93, size=2000))
    ]
    assert 0.93 <= np.mean(covered) <= 0.975


def test_the_paired_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(11)
    # Of 300 rows, 4 % are lost and 2 % won: the true loss is 2 points.
    cells = random.multinomial(300, (0.04, 0.02, 0.94), size=2000)
    covered = [
        interval.low <= 0.02 <= interval.high
        for interval in (paired_difference(int(lost), int(won), 300) for lost, won, _ in cells)
    ]
    assert 0.93 <= np.mean(covered) <= 0.98


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(13)
    covered = [
        interval.low <= 0.0 <= interval.high
        for interval in (
            bootstrap(random.normal(size=60), np.mean, seed=turn, resamples=300)
            for turn in range(300)
        )
    ]
    assert 0.89 <= np.mean(covered) <= 0.98
