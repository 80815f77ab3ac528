"""The laws of the batcher, against workers with a script and a memory.

Every row carries a number of its own, and the engine answers each with twice that number and one
more, so that an answer that was lost, doubled or swapped is seen.
"""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mlserve_cli.runtime import batcher as module
from mlserve_cli.runtime.batcher import Batcher
from mlserve_cli.runtime.errors import DeadlineExceeded, InferenceFailed, Overloaded


@dataclass
class ScriptedWorker:
    """Answers when it is told to, and fails on poison; remembers what it ran."""

    poison: set[int]
    running: tuple | None = None  # (batch, done)
    seen: list = field(default_factory=list)  # the numbers of each batch that was begun

    def start(self, batch, done):
        assert self.running is None, "a worker got a second batch while it ran one"
        batch = {name: array.copy() for name, array in batch.items()}
        self.running = (batch, done)
        self.seen.append([int(number) for number in batch["x"][:, 0]])

    def finish(self):
        batch, done = self.running
        self.running = None
        if self.poison & {int(number) for number in batch["x"][:, 0]}:
            done(None, ValueError("poison\nand a second line"))
        else:
            done({"y": batch["x"] * 2 + 1}, None)

    def close(self):
        pass


class SilentObserver:
    """What the metrics see of the queue."""

    rows = 0
    ran_rows = 0

    def queued(self, rows):
        self.rows = rows

    def waited(self, seconds):
        assert seconds >= 0

    def ran(self, rows, seconds):
        self.ran_rows += rows


@dataclass
class Sent:
    """A request and what may become of it."""

    task: asyncio.Task
    numbers: list
    width: int
    poisoned: bool
    deadline: float | None
    cancelled: bool = False
    runs_when_gone: int | None = None  # how often it had been computed when nobody waited any more


class Batching(RuleBasedStateMachine):
    """Requests arrive, leave and expire in any order; the workers answer in any order."""

    @initialize(
        workers=st.integers(1, 3),
        max_batch=st.sampled_from([8, 5, 3, 1]),
        max_queue_rows=st.sampled_from([1000, 30, 2]),
        merge=st.sampled_from([True, True, True, False]),
    )
    def build(self, workers, max_batch, max_queue_rows, merge):
        self.now = 100.0
        self.loop = asyncio.SelectorEventLoop()
        self.loop.time = lambda: self.now
        module.time = SimpleNamespace(monotonic=lambda: self.now, perf_counter=lambda: self.now)
        self.poison = set()
        self.workers = [ScriptedWorker(self.poison) for _ in range(workers)]
        self.observer = SilentObserver()
        self.batcher = Batcher(
            self.workers,
            max_batch=max_batch,
            max_queue_rows=max_queue_rows,
            observer=self.observer,
            merge=merge,
        )
        self.max_queue_rows = max_queue_rows
        self.merge = merge
        self.sent = []
        self.next_number = 0

    def turn(self):
        """Exactly one turn of the event loop."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    @rule(
        burst=st.lists(
            st.tuples(
                st.sampled_from([1, 2, 3, 8]),
                st.sampled_from([1, 1, 1, 2]),
                st.sampled_from([False, False, False, True]),
                st.sampled_from([None, None, None, None, 3.0, 0.5, -1.0]),
            ),
            min_size=1,
            max_size=5,
        )
    )
    def submit_several(self, burst):
        for request in burst:
            self.submit(*request)

    def submit(self, rows, width, poisoned, deadline):
        rows = min(rows, self.batcher.max_batch)
        numbers = list(range(self.next_number, self.next_number + rows))
        self.next_number += rows
        if poisoned:
            self.poison.add(numbers[-1])
        array = np.repeat(np.array(numbers, np.float32)[:, None], width, axis=1)
        until = None if deadline is None else self.now + deadline
        task = self.loop.create_task(self.batcher.run({"x": array}, rows, until))
        self.sent.append(Sent(task, numbers, width, poisoned, until))

    @rule()
    def let_the_loop_turn(self):
        self.turn()

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def cancel(self, data):
        request = data.draw(st.sampled_from(self.sent))
        if request.task.done():
            return
        request.cancelled = True
        request.task.cancel()
        self.turn()
        self.turn()
        self._is_gone(request)

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0]))
    def time_passes(self, seconds):
        self.now += seconds
        for request in self.sent:
            if request.deadline is not None and request.deadline <= self.now:
                self._is_gone(request)
        self.turn()

    @precondition(lambda self: any(worker.running for worker in self.workers))
    @rule(data=st.data())
    def a_worker_finishes(self, data):
        busy = [worker for worker in self.workers if worker.running]
        worker = data.draw(st.sampled_from(busy))
        self.loop.call_soon(worker.finish)
        self.turn()

    def _runs(self, request):
        first = request.numbers[0]
        return sum(first in batch for worker in self.workers for batch in worker.seen)

    def _is_gone(self, request):
        if request.runs_when_gone is None:
            request.runs_when_gone = self._runs(request)

    @invariant()
    def no_batch_exceeds_the_limit(self):
        for worker in self.workers:
            assert all(len(batch) <= self.batcher.max_batch for batch in worker.seen)

    @invariant()
    def requests_are_whole_and_in_their_own_order_in_a_batch(self):
        by_number = {number: request for request in self.sent for number in request.numbers}
        for worker in self.workers:
            for batch in worker.seen:
                requests = list(dict.fromkeys(id(by_number[number]) for number in batch))
                owners = {id(by_number[number]): by_number[number] for number in batch}
                assert len({request.width for request in owners.values()}) == 1
                assert batch == [n for key in requests for n in owners[key].numbers]
                assert self.merge or len(owners) == 1

    @invariant()
    def nothing_is_computed_for_those_who_have_gone(self):
        for request in self.sent:
            gone = request.runs_when_gone
            assert gone is None or self._runs(request) == gone, request

    @invariant()
    def the_queue_is_counted_and_bounded(self):
        assert self.batcher.queued_rows >= 0
        assert self.observer.rows == self.batcher.queued_rows
        # One request of any size is taken while nothing else waits.
        assert self.batcher.queued_rows <= max(self.max_queue_rows, self.batcher.max_batch)

    @invariant()
    def those_who_have_gone_take_no_room_in_the_queue(self):
        waiting = (r for r in self.sent if not r.task.done() and not self._runs(r))
        assert self.batcher.queued_rows <= sum(len(request.numbers) for request in waiting)

    @rule()
    def nobody_waits_past_a_deadline(self):
        for _ in range(4):
            self.turn()
        for request in self.sent:
            late = request.deadline is not None and request.deadline <= self.now
            assert request.task.done() or not late

    @rule()
    def nobody_is_idle_while_somebody_waits(self):
        for _ in range(4):  # a task starts, it is queued, and the end of that turn dispatches
            self.turn()
        if any(worker.running is None for worker in self.workers):
            assert self.batcher.queued_rows == 0

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        try:
            self._drain()
            for request in self.sent:
                self._check(request)
            assert self.batcher.queued_rows == 0
            self._check_nothing_was_computed_twice()
        finally:
            import time

            module.time = time
            self.loop.close()

    def _drain(self):
        drained = self.loop.create_task(self.batcher.drain())
        for request in self.sent:
            if request.cancelled and not request.task.done():
                request.task.cancel()
        for _ in range(1_000):
            self.turn()
            for worker in self.workers:
                if worker.running:
                    self.loop.call_soon(worker.finish)
            if drained.done() and all(request.task.done() for request in self.sent):
                break
        assert drained.done(), "somebody never got an answer"
        self.turn()

    def _check(self, request):
        """Everybody gets the answer to their own rows, or the error that is theirs."""
        assert request.task.done()
        if request.task.cancelled():
            assert request.cancelled
            return
        error = request.task.exception()
        if error is None:
            expected = np.repeat(np.array(request.numbers, np.float32)[:, None], request.width, 1)
            np.testing.assert_array_equal(request.task.result()["y"], expected * 2 + 1)
            assert not request.poisoned
        elif isinstance(error, InferenceFailed):
            assert request.poisoned, "a neighbour's poison failed this request"
            assert str(error).endswith("poison")
        elif isinstance(error, DeadlineExceeded):
            assert request.deadline is not None
            assert request.deadline <= self.now
        else:
            # Stopping: its task had not begun when the server began to drain.
            assert isinstance(error, Overloaded | module.Stopping)
            assert error.retry_after_s >= 1
            assert not self._runs(request)

    def _check_nothing_was_computed_twice(self):
        """A row is run again only after a batch that it was in has failed."""
        for request in self.sent:
            for number in request.numbers:
                good = [
                    batch
                    for worker in self.workers
                    for batch in worker.seen
                    if number in batch and not self.poison & set(batch)
                ]
                assert len(good) <= 1


TestBatching = Batching.TestCase
TestBatching.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_halves_of_a_failed_batch_are_not_computed_past_their_deadline(monkeypatch):
    monkeypatch.setattr(module, "time", module.time)  # put back whatever happens
    machine = Batching()
    machine.build(workers=1, max_batch=8, max_queue_rows=40, merge=True)
    machine.submit(1, 1, poisoned=False, deadline=None)
    machine.nobody_is_idle_while_somebody_waits()
    machine.submit(1, 1, poisoned=True, deadline=0.5)
    machine.submit(1, 1, poisoned=False, deadline=0.5)
    machine.nobody_is_idle_while_somebody_waits()
    (worker,) = machine.workers
    machine.loop.call_soon(worker.finish)
    machine.nobody_is_idle_while_somebody_waits()
    assert worker.seen == [[0], [1, 2]]

    machine.loop.call_soon(worker.finish)  # it fails, and its halves are for the next turn
    machine.turn()
    machine.time_passes(1.0)
    machine.nobody_is_idle_while_somebody_waits()

    assert worker.seen == [[0], [1, 2]]
    machine.teardown()
