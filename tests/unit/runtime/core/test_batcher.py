"""Single cases; the laws are in tests/property/test_batcher.py."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from mlserve_cli.runtime import batcher as batchers
from mlserve_cli.runtime.batch import Promise
from mlserve_cli.runtime.batcher import Batcher
from mlserve_cli.runtime.errors import InferenceFailed, InvalidRequest, Overloaded, Stopping
from mlserve_cli.runtime.monitoring.metrics import ModelMetrics
from mlserve_cli.runtime.padding import Padding
from mlserve_cli.runtime.timing import Timing
from mlserve_cli.runtime.worker import InlineWorker


class Worker:
    """Holds each batch until the test finishes it."""

    def __init__(self):
        self.batches = []
        self.done = None
        self.closed = False

    def start(self, batch, done):
        assert self.done is None, "a second batch before the first was done"
        self.batches.append(batch["x"][:, 0].tolist())
        self.done = done

    def finish(self, outputs=None, error=None):
        done, self.done = self.done, None
        if outputs is None and error is None:
            outputs = {"y": np.array(self.batches[-1])}
        done(outputs, error)

    def close(self):
        self.closed = True


def row(*values):
    return {"x": np.array([[value] for value in values], np.float32)}


def make(*workers, max_batch=4, max_queue_rows=100, **options):
    metrics = ModelMetrics("m", "1")
    return Batcher(
        workers, max_batch=max_batch, max_queue_rows=max_queue_rows, observer=metrics, **options
    ), metrics


async def turns(count=8):
    for _ in range(count):
        await asyncio.sleep(0)


def submit(batcher, *values, deadline=None, **options):
    return asyncio.create_task(batcher.run(row(*values), len(values), deadline, **options))


def scenario(coroutine):
    """Run an async test; nothing in it may take real time."""

    def run():
        asyncio.run(asyncio.wait_for(coroutine(), 10))

    run.__name__ = coroutine.__name__
    return run


@scenario
async def test_a_lone_request_is_never_held_back():
    worker = Worker()
    batcher, metrics = make(worker)

    submit(batcher, 1)
    await turns(3)  # the task's own, the dispatch behind it, and one to spare

    assert worker.batches == [[1]]
    assert metrics.queue_rows == 0


@scenario
async def test_requests_of_one_turn_share_a_batch():
    worker = Worker()
    batcher, _ = make(worker)

    tasks = [submit(batcher, value) for value in range(3)]
    await turns()
    worker.finish()

    assert worker.batches == [[0, 1, 2]]
    assert [(await task)["y"].tolist() for task in tasks] == [[0], [1], [2]]


@scenario
async def test_what_came_while_a_worker_was_busy_is_the_next_batch():
    worker = Worker()
    batcher, metrics = make(worker)
    submit(batcher, 0)
    await turns()

    for value in range(1, 7):
        submit(batcher, value)
    await turns()
    assert metrics.queue_rows == 6
    worker.finish()
    await turns()

    assert worker.batches == [[0], [1, 2, 3, 4]]
    assert batcher.queued_rows == 2


@scenario
async def test_an_inline_worker_lets_the_loop_turn_between_batches():
    class Engine:
        def __init__(self):
            self.turn, self.turns = 0, []

        def run(self, tensors):
            self.turns.append(self.turn)
            return {"y": tensors["x"]}

    engine = Engine()
    batcher, _ = make(InlineWorker(engine), max_batch=1)
    tasks = [submit(batcher, value) for value in range(5)]
    while not all(task.done() for task in tasks):
        engine.turn += 1
        await asyncio.sleep(0)

    assert len(set(engine.turns)) == 5


@scenario
async def test_a_poison_row_fails_alone():
    worker = Worker()
    batcher, _ = make(worker, max_batch=8)
    tasks = [submit(batcher, value) for value in range(5)]
    await turns()
    while worker.done is not None:
        poisoned = 3 in worker.batches[-1]
        worker.finish(error=ValueError("row 3 is bad\ndetails") if poisoned else None)
        await turns()

    for value, task in enumerate(tasks):
        if value == 3:
            with pytest.raises(InferenceFailed, match=r"on this request: row 3 is bad$"):
                await task
        else:
            assert (await task)["y"].tolist() == [value]
    assert worker.batches[0] == [0, 1, 2, 3, 4]
    assert len(worker.batches) <= 2 * len(tasks) - 1


@scenario
async def test_a_request_that_was_cancelled_is_left_out_of_the_halves():
    worker = Worker()
    batcher, _ = make(worker)
    tasks = [submit(batcher, value) for value in range(4)]
    await turns()
    tasks[1].cancel()
    await turns()
    worker.finish(error=ValueError())
    await turns()
    while worker.done is not None:
        worker.finish()
        await turns()

    assert all(1 not in batch for batch in worker.batches[1:])
    assert [task.done() for task in tasks] == [True] * 4


@scenario
async def test_an_error_meant_for_clients_keeps_its_kind():
    worker = Worker()
    batcher, _ = make(worker)
    task = submit(batcher, 1)
    await turns()
    worker.finish(error=InvalidRequest("the engine refuses this"))

    with pytest.raises(InvalidRequest, match="refuses this"):
        await task


@scenario
async def test_an_error_without_words_is_named_by_its_type():
    worker = Worker()
    batcher, _ = make(worker)
    task = submit(batcher, 1)
    await turns()
    worker.finish(error=MemoryError())

    with pytest.raises(InferenceFailed, match="MemoryError"):
        await task


@pytest.mark.parametrize("outputs", [[], "text", {"y": np.zeros(99)}, {"y": "no array"}])
def test_junk_from_an_engine_is_an_answer_too(outputs):
    @scenario
    async def run():
        worker = Worker()
        batcher, _ = make(worker)
        tasks = [submit(batcher, value) for value in range(2)]
        await turns()
        while worker.done is not None:
            worker.finish(outputs)
            await turns()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        # A dict that came for one request alone is taken as it is.
        assert all(isinstance(each, InferenceFailed) or each is outputs for each in found)
        assert len(worker.batches) == 3

    run()


@scenario
async def test_a_full_queue_refuses_and_says_when_to_come_back():
    worker = Worker()
    batcher, metrics = make(worker, max_queue_rows=4)
    submit(batcher, 0)
    await turns()
    submit(batcher, 1, 2, 3)
    await turns()

    with pytest.raises(Overloaded, match="3 rows wait, and max_queue_rows is 4") as info:
        await batcher.run(row(4, 5), 2)
    assert info.value.retry_after_s == 1
    assert metrics.queue_rows == 3


@scenario
async def test_another_limit_holds_for_newcomers_and_sends_nobody_away():
    worker = Worker()
    batcher, metrics = make(worker, max_queue_rows=4)
    tasks = [submit(batcher, 0)]
    await turns()
    tasks.append(submit(batcher, 1, 2, 3))
    await turns()

    batcher.limit(max_queue_rows=2, max_queue_ms=0)
    with pytest.raises(Overloaded, match="3 rows wait, and max_queue_rows is 2"):
        await batcher.run(row(4), 1)
    batcher.limit(max_queue_rows=5, max_queue_ms=0)
    tasks.append(submit(batcher, 4, 5))
    await turns()

    assert metrics.queue_rows == 5
    assert not any(task.done() for task in tasks)
    while not all(task.done() for task in tasks):
        worker.finish()
        await turns()
    assert [(await task)["y"].tolist() for task in tasks] == [[0], [1, 2, 3], [4, 5]]


@scenario
async def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits():
    worker = Worker()
    batcher, _ = make(worker, max_queue_rows=2, max_batch=8)

    task = submit(batcher, 1, 2, 3, 4)
    await turns()
    worker.finish()

    assert (await task)["y"].tolist() == [1, 2, 3, 4]


@scenario
async def test_an_idle_worker_waits_for_company_only_as_long_as_it_was_told():
    worker = Worker()
    batcher, _ = make(worker, max_delay_ms=60_000)
    for value in range(3):
        submit(batcher, value)
        await turns()
    assert worker.batches == []

    submit(batcher, 3)
    await turns()

    assert worker.batches == [[0, 1, 2, 3]]


@scenario
async def test_a_full_batch_does_not_wait_behind_another_shape_that_does():
    worker = Worker()
    batcher, _ = make(worker, max_delay_ms=60_000, max_batch=2)
    alone = asyncio.create_task(batcher.run({"x": np.ones((1, 9), np.float32)}, 1))
    await turns()

    submit(batcher, 5)
    submit(batcher, 6)
    await turns()

    assert worker.batches == [[5, 6]]
    assert not alone.done()


@scenario
async def test_requests_that_may_not_share_a_batch_do_not_wait_for_each_other():
    worker = Worker()
    batcher, _ = make(worker, max_delay_ms=60_000, merge=False)
    submit(batcher, 1, 2)
    submit(batcher, 3)
    await turns()
    worker.finish()
    await turns()

    assert worker.batches == [[1, 2], [3]]


@scenario
async def test_draining_answers_what_waits_for_company_at_once():
    worker = Worker()
    batcher, _ = make(worker, max_delay_ms=60_000)
    task = submit(batcher, 1)
    await turns()
    draining = asyncio.create_task(batcher.drain())
    await turns()
    assert not draining.done()
    worker.finish()
    await draining

    assert (await task)["y"].tolist() == [1]
    with pytest.raises(Stopping) as info:
        await batcher.run(row(2), 1)
    assert info.value.retry_after_s == 1


@scenario
async def test_draining_an_idle_batcher_ends_at_once_and_twice():
    batcher, _ = make(Worker())

    await batcher.drain()
    await batcher.drain()


@scenario
async def test_draining_ends_when_the_last_that_waits_is_cancelled():
    worker = Worker()
    batcher, metrics = make(worker, max_delay_ms=60_000, max_batch=2)
    first = submit(batcher, 1)
    await turns()
    waiting = submit(batcher, 2, 3)
    await turns()
    draining = asyncio.create_task(batcher.drain())
    waiting.cancel()
    first.cancel()
    await turns()
    if worker.done is not None:
        worker.finish()
    await draining

    assert metrics.queue_rows == 0


@scenario
async def test_closing_tells_everybody_who_has_no_answer():
    worker = Worker()
    batcher, metrics = make(worker)
    running = submit(batcher, 1)
    await turns()
    queued = submit(batcher, 2)
    await turns()

    batcher.close()

    for task in (running, queued):
        with pytest.raises(Stopping):
            await task
    assert worker.closed
    assert metrics.queue_rows == 0
    worker.finish()  # the run that was going on ends later, and nobody minds
    await turns()


@scenario
async def test_the_observer_is_told_of_waiting_and_of_each_batch():
    class Observer:
        seen = ()

        def queued(self, rows):
            self.seen += (("queued", rows),)

        def waited(self, seconds):
            assert 0 <= seconds < 10
            self.seen += ("waited",)

        def closed(self, reason):
            self.seen += (("closed", reason),)

        def ran(self, rows, seconds):
            assert 0 <= seconds < 10
            self.seen += (("ran", rows),)

    observer, worker = Observer(), Worker()
    batcher = Batcher([worker], max_batch=4, max_queue_rows=9, observer=observer)
    submit(batcher, 1, 2)
    submit(batcher, 3)
    await turns()
    worker.finish()

    assert observer.seen == (
        ("queued", 2), ("queued", 3), ("queued", 0), "waited", "waited", ("closed", "empty"),
        ("ran", 3),
    )  # fmt: skip


def test_a_buffer_that_cannot_be_had_fails_the_batch_and_not_the_server(monkeypatch):
    @scenario
    async def run():
        worker = Worker()
        batcher, _ = make(worker)
        with monkeypatch.context() as patch:
            patch.setattr("mlserve_cli.runtime.batch.np.empty", _no_memory)
            tasks = [submit(batcher, value) for value in range(2)]
            await turns()
            for _ in tasks:  # each alone needs no buffer
                worker.finish()
                await turns()
        assert [(await task)["y"].tolist() for task in tasks] == [[0], [1]]

    run()


def _no_memory(*arguments):
    raise MemoryError


@scenario
async def test_the_urgent_go_first_and_the_less_urgent_last():
    worker = Worker()
    batcher, _ = make(worker, max_batch=2)
    submit(batcher, 0)
    await turns()
    for value, priority in ((1, 3), (2, 0), (3, 2), (4, 1)):
        submit(batcher, value, priority=priority)
    await turns()
    for _ in range(2):
        worker.finish()
        await turns()

    assert worker.batches == [[0], [4, 2], [3, 1]]


@scenario
async def test_an_urgent_request_takes_the_place_of_a_less_urgent_one_in_a_full_queue():
    worker = Worker()
    batcher, metrics = make(worker, max_queue_rows=3)
    submit(batcher, 0)
    await turns()
    bulk = [submit(batcher, value, priority=5) for value in (1, 2, 3)]
    await turns()

    urgent = submit(batcher, 4, priority=1)
    await turns()

    with pytest.raises(Overloaded, match="a more urgent request took the place"):
        await bulk[2]
    with pytest.raises(Overloaded, match="max_queue_rows is 3"):
        await batcher.run(row(5), 1, priority=5)
    assert metrics.queue_rows == 3
    worker.finish()
    await turns()
    assert worker.batches == [[0], [4, 1, 2]]
    assert not urgent.done()


@scenario
async def test_nobody_is_sent_away_where_that_would_not_make_room():
    worker = Worker()
    batcher, _ = make(worker, max_queue_rows=3)
    submit(batcher, 0)
    await turns()
    waiting = [submit(batcher, 1), submit(batcher, 2), submit(batcher, 3, priority=5)]
    await turns()

    with pytest.raises(Overloaded):
        await batcher.run(row(4, 5), 2)

    await turns()
    assert not any(task.done() for task in waiting)


@pytest.fixture
def clock(monkeypatch):
    """A clock of the batcher's own, which stands still until the test moves it."""
    made = SimpleNamespace(now=1000.0)
    made.monotonic = made.perf_counter = lambda: made.now
    monkeypatch.setattr(batchers, "time", made)
    return made


async def learn(worker, batcher, clock, *, seconds):
    """Run full batches that take `seconds` each, and leave one running."""
    full = batcher.max_batch
    tasks = [submit(batcher, 0) for _ in range(full * 20)]
    for _ in range(20):
        await turns()
        clock.now += seconds
        worker.finish()
    await asyncio.gather(*tasks)
    submit(batcher, 0)
    await turns()


def test_who_would_wait_longer_than_allowed_is_refused_at_once(clock):
    @scenario
    async def run():
        worker = Worker()
        batcher, _ = make(worker, max_batch=4, max_queue_ms=1500)
        await learn(worker, batcher, clock, seconds=1.0)
        for _ in range(7):
            submit(batcher, 1)
        await turns()
        assert batcher.queued_rows == 7
        assert batcher.queue_delay_s == pytest.approx(1.75, rel=0.05)

        with pytest.raises(Overloaded, match=r"the wait would be about 17\d\d ms") as info:
            await batcher.run(row(2), 1)
        assert info.value.retry_after_s == 2

    run()


def test_a_deadline_that_cannot_be_met_is_refused_at_once(clock):
    @scenario
    async def run():
        worker = Worker()
        batcher, _ = make(worker, max_batch=4)
        await learn(worker, batcher, clock, seconds=1.0)
        for _ in range(8):
            submit(batcher, 1, priority=3)
        await turns()

        with pytest.raises(Overloaded, match="and the deadline is in 1000 ms"):
            await batcher.run(row(2), 1, clock.now + 1, priority=3)
        # It would overtake those, so it can be met.
        usual = submit(batcher, 3, deadline=clock.now + 1)
        far = submit(batcher, 4, deadline=clock.now + 60, priority=3)
        await turns()
        assert not usual.done()
        assert not far.done()

    run()


@scenario
async def test_rows_of_a_request_that_was_let_in_find_room():
    worker = Worker()
    batcher, _ = make(worker, max_queue_rows=2)
    submit(batcher, 0)
    await turns()
    submit(batcher, 1, 2)
    await turns()

    part = submit(batcher, 3, admitted=True)
    await turns()

    assert batcher.queued_rows == 3
    worker.finish()
    await turns()
    worker.finish()
    assert (await part)["y"].tolist() == [3]


@scenario
async def test_a_request_is_told_what_it_spent():
    worker = Worker()
    batcher, _ = make(worker)
    timings = [Timing(), Timing()]
    tasks = [submit(batcher, value, timing=timings[value]) for value in range(2)]
    await turns()
    worker.finish()
    await asyncio.gather(*tasks)

    for timing in timings:
        assert timing.batch_rows == 2
        assert timing.queued_at > 0
        assert 0 <= timing.queue_s < 10
        assert 0 < timing.compute_s < 10


@pytest.mark.parametrize("outputs", [{"z": np.ones(2)}, {"y": np.ones(1)}, {}])
def test_a_lone_request_is_told_that_the_engine_breaks_its_promise(outputs):
    @scenario
    async def run():
        worker = Worker()
        batcher, _ = make(worker, promise=Promise(frozenset("y"), frozenset("y")))
        task = submit(batcher, 1, 2)
        await turns()
        worker.finish(outputs)

        with pytest.raises(InferenceFailed, match=r"output") as info:
            await task
        assert info.value.status == 500

    run()


@scenario
async def test_requests_of_different_lengths_share_a_batch_where_that_was_proven():
    class Engine:
        def run(self, tensors):
            self.batch = tensors["x"]
            return {"y": tensors["x"] * 2}

    engine = Engine()
    axes = {"x": ((1, "length"),)}
    padding = Padding(axes, {"y": ((1, "length"),)}, largest=64)
    batcher, metrics = make(InlineWorker(engine), padding=padding)
    tasks = [
        asyncio.create_task(batcher.run({"x": np.full((1, length), length, np.float32)}, 1))
        for length in (3, 5, 2)
    ]
    found = await asyncio.gather(*tasks)

    assert engine.batch.tolist() == [[3, 3, 3, 0, 0], [5, 5, 5, 5, 5], [2, 2, 0, 0, 0]]
    assert [each["y"].tolist() for each in found] == [[[6] * 3], [[10] * 5], [[4] * 2]]
    assert metrics.padding == 5
    await batcher.run({"x": np.ones((1, 3), np.float32)}, 1)
    assert engine.batch.shape == (1, 3)  # alone, nothing is filled up
