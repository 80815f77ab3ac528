"""The laws of calibration: what a histogram holds, and what each calibrator may make of it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mlserve_cli.quantize.calibration.calibrators import CALIBRATORS, mse, percentile
from mlserve_cli.quantize.calibration.grid import Grid
from mlserve_cli.quantize.calibration.histogram import Histogram
from mlserve_cli.quantize.calibration.range import Range

values = arrays(
    np.float32,
    array_shapes(min_dims=1, max_dims=3, max_side=40),
    elements=st.floats(-1e6, 1e6, width=32),
)


def histogram(array, parts=1):
    made = Histogram.over(Range(float(array.min()), float(array.max())))
    for part in np.array_split(array.ravel(), parts):
        made.add(part)
    return made


def error(array, found):
    exact = array.astype(np.float64)
    return float(np.mean((Grid.over(found).nearest(exact) - exact) ** 2))


@given(values)
def test_a_histogram_holds_every_value_once(array):
    made = histogram(array)
    assert made.mass == array.size
    assert np.isclose(made.sums.sum(), array.astype(np.float64).sum(), rtol=1e-9, atol=1e-3)


@given(values, st.integers(1, 9), st.sampled_from(sorted(CALIBRATORS)))
@settings(max_examples=40, deadline=None)
def test_a_range_does_not_depend_on_how_the_values_were_cut(array, parts, name):
    whole, cut = histogram(array), histogram(array, parts)
    assert np.array_equal(whole.counts, cut.counts)
    one, two = (CALIBRATORS[name](made, 99.9) for made in (whole, cut))
    # Sums in another order differ in their last digits, so two ends that cost the same may swap:
    # the error tells, not the ends.
    assert np.isclose(error(array, one), error(array, two), rtol=1e-6, atol=1e-12)


@given(values)
def test_the_hundredth_percentile_is_minmax(array):
    made = histogram(array)
    assert percentile(made, 100) == made.range


@given(values, st.floats(51, 100), st.sampled_from(sorted(CALIBRATORS)))
@settings(max_examples=60, deadline=None)
def test_a_range_lies_within_the_extremes_and_zero(array, percent, name):
    found = CALIBRATORS[name](histogram(array), percent)
    assert found.low <= found.high
    assert found.low >= min(float(array.min()), 0.0)
    assert found.high <= max(float(array.max()), 0.0) or found.high <= float(array.max())


@given(values)
@settings(max_examples=60, deadline=None)
def test_mse_is_never_worse_than_minmax_by_what_it_measures(array):
    made = histogram(array)
    means, counts = made.means(), made.counts
    whole, chosen = (
        float(counts @ (Grid.over(each).nearest(means) - means) ** 2)
        for each in (made.range, mse(made, 0))
    )
    assert chosen <= whole


@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "laplace", "standard_cauchy"]))
@settings(max_examples=20, deadline=None)
def test_mse_is_never_worse_than_minmax_on_the_values_themselves(seed, kind):
    """A bin is an eighth of a step, so what is measured by bins holds for the values in them."""
    random = np.random.default_rng(seed)
    array = getattr(random, kind)(size=4000).astype(np.float32)
    made = histogram(array)
    assert error(array, mse(made, 0)) <= error(array, made.range) * 1.02
