import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlserve_cli.bench.mlperf.local import _bodies, tensors
from mlserve_cli.bench.mlperf.running import right


def text(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=5), st.integers(1, 3))
def test_answers_come_back_from_loadgens_log_as_they_were(words, width):
    count = len(words)
    outputs = {
        "scores": np.arange(count * width, dtype=np.float32).reshape(count, width),
        "words": text(*words),
        "flags": np.arange(count) % 2 == 0,
    }
    bodies = list(_bodies(outputs, count))
    assert len(bodies) == count
    for number, body in enumerate(bodies):
        found = tensors(body)
        assert found.keys() == outputs.keys()
        for name, array in outputs.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array[number : number + 1])


def test_answers_in_any_order_are_held_to_the_rows_that_they_belong_to():
    expected = {"y": np.array([[1.0], [2.0], [4.0]], np.float32)}
    bodies = list(_bodies(expected, 3))
    found = right(expected, [(2, bodies[2]), (0, bodies[0]), (1, bodies[1])], 1e-4)
    assert (found.holds, found.worst, found.answers) == (True, 0.0, 3)


def test_answers_of_other_rows_are_wrong():
    expected = {"y": np.array([[1.0], [2.0], [4.0]], np.float32)}
    bodies = list(_bodies(expected, 3))
    found = right(expected, [(0, bodies[1]), (1, bodies[0])], 1e-4)
    assert found.holds is False
    assert found.worst == 0.5
    assert "beyond the 0.0001 that is allowed" in found.sentence


def test_a_sample_without_an_answer_is_told():
    expected = {"y": np.zeros((2, 1), np.float32)}
    (body, _) = _bodies(expected, 2)
    assert right(expected, [(0, body), (1, b"\0")], 1e-4).problem == "sample 1 has no answer"
