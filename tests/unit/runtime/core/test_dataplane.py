import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mlserve_cli.runtime.batcher import Batcher
from mlserve_cli.runtime.dataplane import DataPlane
from mlserve_cli.runtime.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    Overloaded,
)
from mlserve_cli.runtime.manifest import BatchProof, Manifest
from mlserve_cli.runtime.monitoring.metrics import ModelMetrics
from mlserve_cli.runtime.registry import LoadedModel
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.runtime.tensors import TensorSpec
from mlserve_cli.runtime.timing import Timing
from mlserve_cli.runtime.worker import InlineWorker


class Engine:
    """Runs `function` and remembers the sizes of its batches."""

    def __init__(self, function):
        self.function = function
        self.sizes = []

    def run(self, tensors):
        self.sizes.append(len(tensors["x"]))
        return self.function(tensors)


def double(tensors):
    return {"y": tensors["x"] * 2}


def rows(count, start=0):
    return {"x": np.arange(start, start + count * 2, dtype=np.float32).reshape(count, 2)}


def make(function=double, *, workers=1, max_batch=4, max_queue_rows=100, specs=None, **manifest):
    engine = Engine(function)
    metrics = ModelMetrics("m", "1")
    batcher = Batcher(
        [InlineWorker(engine)] * workers,
        max_batch=max_batch,
        max_queue_rows=max_queue_rows,
        observer=metrics,
    )
    inputs = specs or (TensorSpec("x", "FP32", ("batch", 2)),)
    fields = {"batch": BatchProof(invariant=True)} | manifest
    made = Manifest(name="m", version="1", variant="fp32", inputs=inputs, outputs=(), **fields)
    model = LoadedModel(made, None, None, Sizing(), batcher, metrics)
    return SimpleNamespace(model=model, engine=engine, metrics=metrics)


def infer(made, tensors, **options):
    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=10)
        return await plane.infer(made.model, tensors, **options)

    return asyncio.run(main())


def test_a_request_is_answered():
    assert infer(make(), rows(2))["y"].tolist() == [[0, 2], [4, 6]]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [4, 5, 8, 9, 23])
def test_more_rows_than_a_batch_are_split_and_answered_in_order(count, workers):
    made = make(workers=workers)

    found = infer(made, rows(count))["y"]

    np.testing.assert_array_equal(found, rows(count)["x"] * 2)
    assert sum(made.engine.sizes) == count
    assert max(made.engine.sizes) <= 4


def test_a_request_larger_than_the_queue_is_answered():
    made = make(max_queue_rows=3)

    assert len(infer(made, rows(50))["y"]) == 50
    assert made.metrics.queue_rows == 0


def test_a_large_request_that_fails_raises_its_own_error():
    def fail_late(tensors):
        if tensors["x"].max() > 20:
            raise ValueError("too big for me")
        return double(tensors)

    with pytest.raises(InferenceFailed, match="too big for me"):
        infer(make(fail_late, workers=2), rows(23))


def test_a_large_request_that_was_let_in_is_not_refused_half_way():
    assert len(infer(make(workers=2, max_queue_rows=5), rows(8))["y"]) == 8


def test_outputs_that_are_no_rows_cannot_answer_a_split_request():
    made = make(lambda tensors: {"y": np.float32(tensors["x"].sum()).reshape(())}, max_batch=1)

    with pytest.raises(InvalidRequest, match="has no row for each row") as info:
        infer(made, rows(3))
    assert info.value.hint == "send at most 1 at a time"
    assert infer(made, rows(1))["y"] == 1


def test_a_varying_number_of_output_rows_cannot_answer_a_split_request():
    made = make(lambda tensors: {"y": np.zeros((int(tensors["x"][0, 0]), 2))}, max_batch=1)

    with pytest.raises(InvalidRequest, match="has no row for each row"):
        infer(made, rows(3, start=1))


def test_a_fixed_batch_runs_whole():
    made = make(max_batch=3, specs=(TensorSpec("x", "FP32", (3, 2)),))

    assert len(infer(made, rows(3))["y"]) == 3
    with pytest.raises(InvalidRequest, match="unexpected shape"):
        infer(made, rows(4))
    assert made.engine.sizes == [3]


def test_an_input_without_rows_is_passed_on_whole():
    specs = (TensorSpec("x", "FP32", ("batch", 2)), TensorSpec("scale", "FP32", ()))
    made = make(lambda given: {"y": given["x"] * given["scale"]}, max_batch=1, specs=specs)

    found = infer(made, {**rows(3), "scale": np.array(10, np.float32)})["y"]

    np.testing.assert_array_equal(found, rows(3)["x"] * 10)
    assert made.engine.sizes == [3]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_that_would_hide_nan_refuses_it(value):
    tensors = rows(2)
    tensors["x"][1, 1] = value

    with pytest.raises(InvalidRequest, match="input 'x' for model 'm' holds NaN or infinity"):
        infer(make(finite_inputs=True), tensors)
    assert infer(make(), tensors)["y"].shape == (2, 2)


def test_what_does_not_fit_the_signature_never_reaches_the_engine():
    made = make()

    with pytest.raises(InvalidRequest):
        infer(made, {"z": np.ones((1, 2), np.float32)})
    assert made.engine.sizes == []


class Processor:
    """Takes a JSON-free payload: its bytes are the rows."""

    def __init__(self):
        self.threads = set()
        self.go = None

    def rows(self, body, content_type):
        self.threads.add(threading.current_thread().name)
        if self.go is not None:
            assert self.go.wait(10)
        return list(body)

    def tensors(self, rows):
        return {"x": np.array([[row, row] for row in rows], np.float32)}

    def answers(self, outputs, payloads=None):
        self.threads.add(threading.current_thread().name)
        return outputs["y"][:, 0].tolist()


def test_a_payload_is_processed_on_threads_of_its_own():
    made = make()
    processor = made.model.processor = Processor()

    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=1)
        try:
            return await plane.predict(made.model, b"\x01\x02", "")
        finally:
            plane.close()

    assert asyncio.run(main()) == [2.0, 4.0]
    assert all(name.startswith("processing") for name in processor.threads)


def test_payloads_beyond_what_may_wait_are_refused_and_the_others_answered():
    made = make()
    processor = made.model.processor = Processor()
    processor.go = threading.Event()

    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=2)
        waiting = [asyncio.create_task(plane.predict(made.model, b"\x01", "")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as info:
            await plane.predict(made.model, b"\x01", "")
        processor.go.set()
        answers = await asyncio.gather(*waiting)
        again = await plane.predict(made.model, b"\x05", "")
        plane.close()
        return info.value, answers, again

    error, answers, again = asyncio.run(main())

    assert error.retry_after_s
    assert (answers, again) == ([[2.0], [2.0]], [10.0])


def test_a_payload_past_its_deadline_is_not_decoded():
    made = make()
    processor = made.model.processor = Processor()

    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=2)
        try:
            await plane.predict(made.model, b"\x01", "", deadline=time.monotonic() - 1)
        finally:
            plane.close()

    with pytest.raises(DeadlineExceeded):
        asyncio.run(main())
    assert not processor.threads


def test_a_plane_that_was_closed_can_serve_again():
    made = make()
    made.model.processor = Processor()
    plane = DataPlane(processing_threads=1, max_payloads=1)

    for _ in range(2):
        assert asyncio.run(plane.predict(made.model, b"\x01", "")) == [2.0]
        plane.close()


class Gated:
    """A batcher that answers when the test lets it."""

    max_batch, workers = 100, 1

    def __init__(self):
        self.go = asyncio.Event()
        self.asked = []

    async def run(self, tensors, rows, deadline=None, *, priority=0, timing=None):
        self.asked.append((rows, priority, timing))
        await self.go.wait()
        return double(tensors)


def test_inputs_beyond_what_may_be_in_memory_are_refused_until_there_is_room():
    made = make()

    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=9, max_bytes=30)
        made.model.batcher = Gated()
        # Of 80 bytes; alone it is taken whatever its size.
        large = asyncio.create_task(plane.infer(made.model, rows(10)))
        await asyncio.sleep(0)
        assert plane.bytes_in_flight == 80
        with pytest.raises(Overloaded, match="max_inflight_mb") as info:
            await plane.infer(made.model, rows(1))
        assert info.value.retry_after_s == 1
        made.model.batcher.go.set()
        await large
        await plane.infer(made.model, rows(1))
        assert plane.bytes_in_flight == 0

    asyncio.run(main())


def test_a_body_counts_while_it_is_decoded_and_its_tensors_after_that():
    made = make()

    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=9, max_bytes=30)
        made.model.batcher = Gated()
        held = plane.hold(100)  # alone it is taken whatever its size
        with pytest.raises(Overloaded, match="requests of 100 bytes are in memory"):
            plane.hold(1)
        with pytest.raises(Overloaded):
            await plane.infer(made.model, rows(1))
        held.let_go()
        held.let_go()
        assert plane.bytes_in_flight == 0
        tensors = asyncio.create_task(plane.infer(made.model, rows(3)))
        await asyncio.sleep(0)
        with plane.hold(6):
            assert plane.bytes_in_flight == 30
            with pytest.raises(Overloaded):
                plane.hold(1)
        assert plane.bytes_in_flight == 24
        made.model.batcher.go.set()
        await tensors

    asyncio.run(main())


def test_another_limit_of_memory_holds_for_newcomers():
    made = make()

    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=9, max_bytes=30)
        made.model.batcher = Gated()
        large = asyncio.create_task(plane.infer(made.model, rows(10)))
        await asyncio.sleep(0)
        plane.limit(max_payloads=9, max_bytes=88)
        second = asyncio.create_task(plane.infer(made.model, rows(1)))
        await asyncio.sleep(0)
        assert plane.bytes_in_flight == 88
        with pytest.raises(Overloaded, match="max_inflight_mb allows 88"):
            await plane.infer(made.model, rows(1))
        made.model.batcher.go.set()
        await asyncio.gather(large, second)

    asyncio.run(main())


def test_a_request_that_fails_or_is_cancelled_takes_no_memory_any_more():
    made = make()

    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=9)
        made.model.batcher = Gated()
        gone = asyncio.create_task(plane.infer(made.model, rows(3)))
        await asyncio.sleep(0)
        assert plane.bytes_in_flight == 24
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert plane.bytes_in_flight == 0

    asyncio.run(main())


def test_priority_and_timing_reach_the_batcher():
    made = make()
    timing = Timing()

    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=9)
        made.model.batcher = Gated()
        made.model.batcher.go.set()
        await plane.infer(made.model, rows(3), priority=4, timing=timing)

    asyncio.run(main())

    assert made.model.batcher.asked == [(3, 4, timing)]


def test_the_timing_of_a_split_request_is_that_of_all_its_parts():
    timing = Timing()

    infer(make(), rows(10), timing=timing)

    assert timing.batch_rows == 4
    assert timing.queued_at > 0
    assert timing.compute_s > 0


def test_a_payload_is_timed():
    made = make()
    made.model.processor = Processor()
    timing = Timing()

    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=1)
        await plane.predict(made.model, b"\x01", "", timing=timing)
        plane.close()

    asyncio.run(main())

    assert timing.processing_s > 0
    assert timing.batch_rows == 1


def test_payloads_of_one_model_do_not_take_the_places_of_another():
    busy, quiet = make(), make()
    processor = busy.model.processor = Processor()
    processor.go = threading.Event()
    quiet.model.processor = Processor()

    async def main():
        plane = DataPlane(processing_threads=1, max_payloads=1)
        waiting = asyncio.create_task(plane.predict(busy.model, b"\x01", ""))
        await asyncio.sleep(0)
        other = asyncio.create_task(plane.predict(quiet.model, b"\x02", ""))
        await asyncio.sleep(0)
        processor.go.set()
        answers = await asyncio.gather(waiting, other)
        plane.close()
        return answers

    assert asyncio.run(main()) == [[2.0], [4.0]]


def test_a_shadow_gets_a_copy_of_what_was_answered():
    made = make()
    copies = []
    shadow = SimpleNamespace(
        copy=lambda *arguments, remembered: copies.append((*arguments, remembered))
    )
    made.model.shadows = (shadow,)
    sent = rows(2)

    outputs = infer(made, sent)

    assert copies == [(made.model, sent, outputs, 2, None)]
