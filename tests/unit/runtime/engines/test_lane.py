"""A lane on a device that remembers what it was asked, in place of a GPU."""

import logging

import numpy as np
import pytest

from mlserve_cli.runtime.engines.archive import Signature
from mlserve_cli.runtime.engines.lane import MOST_GRAPHS, Lane
from mlserve_cli.runtime.tensors import TensorSpec

torch = pytest.importorskip("torch")

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "FP32", ("batch", 2)),),
    outputs=(TensorSpec("y", "FP32", ("batch", 2)),),
)


class FakeDevice:
    """Memory of the host; a graph runs the call again on the memory it was recorded with."""

    def __init__(self):
        self.recorded = []
        self.replayed = []
        self.called = 0
        self.waits = 0
        self.failure = None

    def pinned(self, shape, like):
        return torch.full(tuple(shape), 99, dtype=self._dtype(like))

    def tensor(self, shape, like):
        return torch.zeros(tuple(shape), dtype=self._dtype(like))

    def copy(self, source, target):
        target.copy_(source)

    def call(self, call, inputs):
        self.called += 1
        return call(inputs)

    def record(self, call, inputs):
        if self.failure is not None:
            raise self.failure
        size = inputs[0].shape[0]
        self.recorded.append(size)
        outputs = call(inputs)

        def replay():
            self.replayed.append((size, inputs[0].clone()))
            for kept, new in zip(outputs, call(inputs), strict=True):
                kept.copy_(new)

        return replay, outputs

    def wait(self):
        self.waits += 1

    def _dtype(self, like):
        if isinstance(like, np.ndarray):
            return torch.from_numpy(np.empty(0, like.dtype)).dtype
        return like.dtype


def double(tensors):
    return [tensors[0] * 2]


def batch(count, value=1.0):
    return [np.full((count, 2), value, np.float32)]


def lane(device=None, call=double, signature=SIGNATURE, batches=(1, 2, 4)):
    made = Lane(device or FakeDevice(), call, signature, batches=batches)
    made.prepare()
    return made


def test_every_size_is_recorded_before_the_first_request_and_the_largest_first():
    device = FakeDevice()
    assert lane(device).recorded == (1, 2, 4)
    assert device.recorded == [4, 2, 1]


def test_a_batch_between_two_sizes_takes_the_next_one_filled_up_with_zeros():
    device = FakeDevice()
    found = lane(device).run(batch(3))
    assert found[0].tolist() == [[2.0, 2.0]] * 3
    size, given = device.replayed[0]
    assert size == 4
    assert given.tolist() == [[1.0, 1.0]] * 3 + [[0.0, 0.0]]
    assert device.recorded == [4, 2, 1]


def test_answers_are_the_callers_own_whatever_runs_next():
    made = lane()
    first = made.run(batch(2, 1.0))
    made.run(batch(2, 5.0))
    assert first[0].tolist() == [[2.0, 2.0]] * 2


def test_nothing_of_an_earlier_batch_is_left_in_the_rows_that_fill_up():
    device = FakeDevice()
    made = lane(device)
    made.run(batch(4, 7.0))
    made.run(batch(3, 1.0))
    assert device.replayed[-1][1][3].tolist() == [0.0, 0.0]


def test_a_batch_larger_than_every_size_is_run_as_it_is():
    device = FakeDevice()
    assert lane(device).run(batch(9))[0].shape == (9, 2)
    assert device.called == 1


def test_a_model_of_free_lengths_is_run_without_graphs():
    device = FakeDevice()
    free = Signature(
        inputs=(TensorSpec("x", "FP32", ("batch", "length")),), outputs=SIGNATURE.outputs
    )
    made = lane(device, signature=free)
    assert made.recorded == ()
    assert made.run(batch(3))[0].tolist() == [[2.0, 2.0]] * 3
    assert (device.called, device.waits) == (1, 1)


def test_a_model_that_cannot_be_recorded_still_runs_and_the_log_says_why(caplog):
    device = FakeDevice()
    device.failure = RuntimeError("operation not permitted when stream is capturing\nmore")
    with caplog.at_level(logging.WARNING):
        made = lane(device)
    assert made.run(batch(3))[0].tolist() == [[2.0, 2.0]] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "the model runs without CUDA graphs, as it cannot be recorded: "
        "operation not permitted when stream is capturing"
    ]


def test_too_little_memory_for_a_size_is_raised_not_hidden():
    class OutOfMemoryError(RuntimeError):
        pass

    device = FakeDevice()
    device.failure = OutOfMemoryError("CUDA out of memory")
    with pytest.raises(OutOfMemoryError):
        lane(device)


def test_an_answer_of_the_whole_batch_is_never_made_of_rows_that_fill_up():
    device = FakeDevice()
    made = lane(device, call=lambda tensors: [tensors[0].sum()])
    assert made.run(batch(3))[0] == 6.0
    assert device.replayed == []


def test_without_sizes_each_batch_has_a_graph_of_its_own_up_to_a_limit():
    device = FakeDevice()
    made = lane(device, batches=())
    for count in range(1, MOST_GRAPHS + 4):
        assert made.run(batch(count))[0].shape == (count, 2)
    assert made.recorded == tuple(range(1, MOST_GRAPHS + 1))
    assert device.called == 3


def test_bfloat16_comes_back_as_float32():
    made = lane(call=lambda tensors: [(tensors[0] / 2).to(torch.bfloat16)])
    found = made.run(batch(3))
    assert found[0].dtype == np.float32
    assert found[0].tolist() == [[0.5, 0.5]] * 3
