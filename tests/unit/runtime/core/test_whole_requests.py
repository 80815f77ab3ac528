"""Models whose inputs cannot be cut into rows: a state with its layers first, a scalar beside."""

import numpy as np
import pytest

from mlserve_cli.runtime.batch import Promise, split
from mlserve_cli.runtime.measuring import tiled
from mlserve_cli.runtime.tensors import TensorSpec, fixed_batch, whole_only

SOUND = TensorSpec("sound", "FP32", ("batch", "length"))
STATE = TensorSpec("state", "FP32", (2, "batch", 4))
RATE = TensorSpec("rate", "INT64", ())
OUT = TensorSpec("speech", "FP32", ("batch", 1))


@pytest.mark.parametrize(
    ("inputs", "whole"),
    [
        ((SOUND,), False),
        ((SOUND, TensorSpec("mask", "FP32", ("batch", "length"))), False),
        ((SOUND, TensorSpec("other", "FP32", ("rows", 3))), False),
        ((TensorSpec("x", "FP32", (4, 3)), TensorSpec("y", "FP32", (4, 1))), False),
        ((SOUND, STATE), True),
        ((SOUND, RATE), True),
        ((TensorSpec("x", "FP32", (1, 3)), STATE), True),
    ],
)
def test_inputs_of_different_first_dimensions_make_a_request_whole(inputs, whole):
    assert whole_only(inputs) is whole


def test_as_many_rows_are_taken_as_the_largest_tensor_has():
    assert fixed_batch((SOUND, STATE, RATE)) == 2
    assert fixed_batch((TensorSpec("x", "FP32", (1, 3)), STATE)) == 2


def test_a_whole_request_is_measured_as_it_is():
    request = {"sound": np.ones((1, 512)), "state": np.zeros((2, 1, 4)), "rate": np.array(16000)}

    assert tiled(request, 2) is request


def test_no_number_of_rows_is_promised_of_its_answer():
    promise = Promise.of((SOUND, STATE, RATE), (OUT,))

    answers = split({"speech": np.ones((1, 1))}, [2], promise)  # the state came first: two "rows"
    assert answers[0]["speech"].shape == (1, 1)
    with pytest.raises(ValueError, match="has 1 rows for a batch of 2"):
        split({"speech": np.ones((1, 1))}, [2], Promise.of((SOUND,), (OUT,)))
