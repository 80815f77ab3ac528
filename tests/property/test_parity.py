"""Laws of the comparison: equal models agree, small noise never fails, large errors always do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlserve_cli.errors import StepError
from mlserve_cli.graph import parity
from mlserve_cli.runtime.tensors import TensorSpec

SCORES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 7), st.integers(1, 5)),  # 7: a whole batch, so that each row is seen
    elements=st.floats(-1e3, 1e3, width=32),
)


class Answering:
    inputs = (TensorSpec("x", "FP32", ("batch", "n")),)
    outputs = (TensorSpec("y", "FP32", ("batch", "n")),)

    def __init__(self, function):
        self.run = function

    def close(self):
        pass


def identity(tensors):
    return {"y": tensors["x"]}


@given(SCORES)
def test_a_model_agrees_with_itself(scores):
    found = parity.compare(identity, Answering(identity), {"x": scores})

    assert (found.relative_error, found.agreement, found.changed) == (0.0, 1.0, 0.0)


@given(SCORES, st.floats(-0.4, 0.4))
def test_an_error_below_the_tolerance_never_changes_the_meaning(scores, share):
    def noisy(tensors):
        largest = np.abs(tensors["x"]).max()
        signs = np.where(np.arange(tensors["x"].size).reshape(tensors["x"].shape) % 2, 1, -1)
        return {"y": tensors["x"] + signs * share * parity.TOLERANCE * largest}

    parity.check(parity.compare(identity, Answering(noisy), {"x": scores.astype(np.float64)}))


@given(SCORES.filter(lambda scores: bool(np.abs(scores).max() > 1e-2)))
def test_an_error_over_the_tolerance_is_always_found(scores):
    def wrong(tensors):
        return {"y": tensors["x"] * 1.001}

    found = parity.compare(identity, Answering(wrong), {"x": scores.astype(np.float64)})

    assert found.relative_error == pytest.approx(1e-3, rel=0.01)
    with pytest.raises(StepError):
        parity.check(found)
