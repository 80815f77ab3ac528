"""The laws of saturation: what the analysis of the weights promises, the emulation keeps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlserve_cli.quantize import saturation


@st.composite
def products(draw, limit):
    rows, inner, columns = (draw(st.integers(1, 9)) for _ in range(3))
    levels = draw(arrays(np.uint8, (rows, inner)))
    matrix = draw(arrays(np.int8, (inner, columns), elements=st.integers(-limit, limit)))
    return levels, matrix


@given(products(64))
def test_weights_of_seven_bits_are_summed_exactly(product):
    levels, matrix = product
    exact = levels.astype(np.int32) @ matrix.astype(np.int32)
    assert np.array_equal(saturation.emulate(levels, matrix), exact)
    assert saturation.possible(matrix[None]) == 0


@given(products(127))
def test_a_sum_is_exact_where_no_pair_can_saturate_or_does(product):
    levels, matrix = product
    exact = np.array_equal(
        saturation.emulate(levels, matrix), levels.astype(np.int32) @ matrix.astype(np.int32)
    )
    if saturation.possible(matrix[None]) == 0:
        assert saturation.share(levels, matrix) == 0
    if saturation.share(levels, matrix) == 0:
        assert exact


@given(products(127))
def test_where_a_pair_can_saturate_some_input_makes_it(product):
    _, matrix = product
    largest = [
        (np.where(matrix[:, [column]].T * sign > 0, 255, 0).astype(np.uint8), column)
        for column in range(matrix.shape[1])
        for sign in (1, -1)
    ]
    reached = any(saturation.share(levels, matrix[:, [column]]) > 0 for levels, column in largest)
    assert reached == (saturation.possible(matrix[None]) > 0)
