import re

import numpy as np
import pytest

from mlserve_cli.runtime.batch import Buffers, Promise, key_of, split
from mlserve_cli.runtime.tensors import TensorSpec


def part(rows, value, width=3, dtype=np.float32):
    return {"x": np.full((rows, width), value, dtype)}


def join(buffers, *parts):
    rows = sum(len(part["x"]) for part in parts)
    return buffers.join(parts, key_of(parts[0]), rows)


def test_rows_stand_in_the_order_of_the_requests():
    joined = join(Buffers(8), part(1, 1), part(3, 2), part(2, 3))

    assert joined["x"][:, 0].tolist() == [1, 2, 2, 2, 3, 3]


def test_a_buffer_is_used_again_and_never_shows_old_rows():
    buffers = Buffers(8)
    first = join(buffers, part(3, 1), part(3, 2))["x"]
    second = join(buffers, part(1, 8), part(1, 9))["x"]

    assert np.shares_memory(first, second)
    assert second[:, 0].tolist() == [8, 9]


def test_a_buffer_grows_with_the_batches():
    buffers = Buffers(8)
    join(buffers, part(1, 1), part(1, 1))
    joined = join(buffers, part(4, 1), part(4, 2))["x"]

    assert joined[:, 0].tolist() == [1] * 4 + [2] * 4


def test_only_the_shapes_seen_lately_are_kept():
    buffers = Buffers(4)
    first = join(buffers, part(1, 1, 1), part(1, 1, 1))["x"]
    for width in range(2, 7):
        join(buffers, part(1, 1, width), part(1, 1, width))

    assert not np.shares_memory(first, join(buffers, part(1, 1, 1), part(1, 1, 1))["x"])


def test_a_request_alone_is_not_copied():
    alone = part(2, 1)

    assert join(Buffers(8), alone)["x"] is alone["x"]


def test_an_unaligned_view_is_copied_for_the_engine():
    body = b"?" + np.arange(3, dtype=np.float32).tobytes()
    view = np.frombuffer(body, np.float32, 3, 1).reshape(1, 3)

    joined = join(Buffers(8), {"x": view})["x"]

    assert joined.flags.aligned
    assert joined.tolist() == [[0, 1, 2]]


def test_rows_that_are_not_contiguous_are_made_so():
    assert join(Buffers(8), {"x": np.ones((3, 2)).T})["x"].flags.c_contiguous


def test_text_is_joined_without_keeping_it():
    texts = [np.array([b"a"], object), np.array([b"b", b"c"], object)]
    buffers = Buffers(8)

    joined = join(buffers, *({"x": text} for text in texts))["x"]

    assert joined.tolist() == [b"a", b"b", b"c"]


def test_inputs_in_another_order_are_another_key():
    one = {"a": np.ones((1, 2)), "b": np.ones((1, 3))}
    other = {"b": np.ones((1, 2)), "a": np.ones((1, 3))}

    assert key_of(one) != key_of(other)


def test_outputs_are_split_by_rows():
    parts = split({"y": np.arange(6)}, [1, 3, 2])

    assert [part["y"].tolist() for part in parts] == [[0], [1, 2, 3], [4, 5]]


def test_a_request_alone_gets_everything():
    outputs = {"total": np.array(3.0)}

    assert split(outputs, [5]) == [outputs]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (None, "returned NoneType"),
        ([1], "returned list"),
        ({"y": np.array(1.0)}, "output 'y' has no rows for a batch of 3"),
        ({"y": np.ones((2, 4))}, "output 'y' has 2 rows for a batch of 3"),
    ],
)
def test_an_engine_that_returns_something_else_is_found_out(outputs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        split(outputs, [1, 2])


PROMISE = Promise.of(
    [TensorSpec("x", "FP32", ("batch", 4))],
    [
        TensorSpec("y", "FP32", ("batch", 2)),
        TensorSpec("boxes", "FP32", ("found", 4)),
        TensorSpec("total", "FP32", ()),
    ],
)


def answer(**changes):
    whole = {"y": np.ones((3, 2)), "boxes": np.ones((7, 4)), "total": np.array(3.0)}
    return whole | changes


def test_a_lone_request_gets_outputs_that_have_no_row_for_each_of_its_rows():
    outputs = answer()

    assert split(outputs, [3], PROMISE) == [outputs]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (answer(y=np.ones((2, 2))), "output 'y' has 2 rows for a batch of 3"),
        (answer(y=np.array(1.0)), "output 'y' has no rows for a batch of 3"),
        (answer(y="one"), "output 'y' is of type str, not an array"),
        (
            {"z": np.ones((3, 2))},
            "returned outputs 'z', and the model's are 'boxes', 'total', 'y'",
        ),
        ({}, "returned outputs (none), and"),
    ],
)
def test_a_lone_request_is_told_where_an_engine_breaks_its_promise(outputs, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        split(outputs, [3], PROMISE)
