"""The laws of batching, tried with scripted workers on a real event loop whose clock is the test's.

Nobody's answer is lost, doubled or swapped; a batch is never too large and mixes shapes only where
padding is allowed; who is more urgent or older goes first; no worker idles while work waits;
whoever cancelled or ran out of time is never computed; a poison row fails its own request alone,
and only who shared a failed batch is computed again; the queue keeps its bound; a drain answers
everyone.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlserve_cli.runtime import batcher as batchers
from mlserve_cli.runtime.batch import Promise
from mlserve_cli.runtime.batcher import Batcher
from mlserve_cli.runtime.errors import DeadlineExceeded, InferenceFailed, Overloaded, Stopping
from mlserve_cli.runtime.padding import Padding
from mlserve_cli.runtime.timing import Timing
from mlserve_cli.runtime.waiting import STEP_S, USUAL


class Selector(selectors.DefaultSelector):
    """Never sleeps: what the loop would have slept, its clock is moved forward."""

    loop: Loop

    def select(self, timeout: float | None = None) -> list[Any]:
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """A real event loop with a clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(Selector())

    def time(self) -> float:
        return self.now


class Clock:
    """Stands in for the batcher's `time` module."""

    def __init__(self, loop: Loop) -> None:
        self.monotonic = self.perf_counter = loop.time


class Call:
    """One request, and what the test knows of it."""

    def __init__(
        self, identity: int, rows: int, width: int, deadline: float | None, priority: int
    ) -> None:
        self.identity, self.rows, self.width, self.deadline = identity, rows, width, deadline
        self.priority = priority
        self.timing = Timing()
        self.poison = False
        self.cancelled = False
        self.arrived = 0.0
        self.task: asyncio.Task[Any]
        self.runs = 0
        self.good_runs = 0  # in batches that did not fail

    @property
    def rank(self) -> float:
        """Before whom it goes: a level is worth a second."""
        return self.timing.queued_at + ((self.priority or USUAL) - USUAL) * STEP_S

    def waits(self) -> bool:
        """Whether it stands in the queue."""
        return bool(self.timing.queued_at) and not self.runs and not self.task.done()


class Worker:
    """Holds each batch until the test says how it ends; checks it when it comes."""

    def __init__(self, machine: Batching) -> None:
        self.machine = machine
        self.batch: list[Call] = []
        self.done: Any = None
        self.outputs: Any = None

    def start(self, batch: dict[str, Any], done: Any) -> None:
        assert self.done is None, "a second batch before the first was done"
        x = batch["x"]
        self.done = done
        self.outputs = {"y": x * 2 + 1}
        self.batch = []
        start = 0
        for identity in dict.fromkeys(x[:, 0].tolist()):
            call = self.machine.calls[int(identity)]
            mine = x[start : start + call.rows]
            start += call.rows
            assert (mine[:, : call.width] == identity).all(), "rows lost, doubled or mixed"
            assert len(mine) == call.rows, "rows lost"
            assert not mine[:, call.width :].any(), "padding is not zero"
            assert not call.cancelled, "a request was run after it was cancelled"
            assert call.deadline is None or call.deadline > self.machine.loop.now, "run too late"
            self.batch.append(call)
        assert start == len(x)
        assert x.shape[1] == max(call.width for call in self.batch), "more padding than needed"
        if not self.machine.padding:
            assert len({call.width for call in self.batch}) == 1, "shapes were mixed"
        if self.machine.merge:
            assert len(x) <= self.machine.max_batch, "more rows than a batch may have"
        else:
            assert len(self.batch) == 1, "requests shared a batch that must not"
        self.check_order()
        for call in self.batch:
            call.runs += 1
            call.good_runs += not any(other.poison for other in self.batch)

    def check_order(self) -> None:
        """Who is left waiting has no right to be before those in the batch."""
        ranks = [call.rank for call in self.batch]
        assert ranks == sorted(ranks), "out of order in the batch"
        if any(call.runs for call in self.batch):
            return  # a part of a batch that failed; it stands before the queue
        widths = {call.width for call in self.batch}
        for other in self.machine.calls:
            late = other.deadline is not None and other.deadline <= self.machine.loop.now
            if other in self.batch or late or not other.waits():
                continue
            if self.machine.padding or other.width in widths:
                assert other.rank >= ranks[-1], "somebody was overtaken"

    def finish(self) -> None:
        done, self.done = self.done, None
        if any(call.poison for call in self.batch):
            done(None, ValueError("poison"))
        else:
            done(self.outputs, None)

    def close(self) -> None:
        pass


class Observer:
    """Remembers the gauge."""

    rows = 0
    batches_closed = batches_run = 0

    def queued(self, rows: int) -> None:
        self.rows = rows

    def waited(self, seconds: float) -> None:
        assert seconds >= 0

    def closed(self, reason: str) -> None:
        assert reason in ("empty", "full", "shape", "single", "half")
        self.batches_closed += 1

    def padded(self, elements: int, padding: int) -> None:
        assert elements > 0
        assert padding >= 0

    def ran(self, rows: int, seconds: float) -> None:
        assert rows > 0
        self.batches_run += 1


WISH = st.tuples(
    st.integers(1, 6),  # rows
    st.sampled_from([1, 1, 1, 2]),  # width, as a model with a dynamic dimension has it
    st.sampled_from([None, None, None, None, -1.0, 0.0, 0.02, 5.0]),  # seconds until its deadline
    st.sampled_from([False, False, False, True]),  # poison
    st.sampled_from([0, 0, 0, 0, 1, 3, 5]),  # priority
)


class Batching(RuleBasedStateMachine):
    """Clients, workers and a clock in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.raised: list[BaseException] = []  # in callbacks, where asyncio would only log it
        self.loop.set_exception_handler(
            lambda loop, context: self.raised.append(
                context.get("exception", AssertionError(context))
            )
        )
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(batchers, "time", Clock(self.loop))
        self.calls: list[Call] = []
        self.draining: asyncio.Task[None] | None = None

    @initialize(
        workers=st.integers(1, 3),
        max_batch=st.integers(1, 6),
        max_queue_rows=st.integers(1, 20),
        max_delay_ms=st.sampled_from([0, 0, 50]),
        max_queue_ms=st.sampled_from([0, 0, 20]),
        merge=st.sampled_from([True, True, True, False]),
        padding=st.booleans(),
    )
    def begin(
        self,
        workers: int,
        max_batch: int,
        max_queue_rows: int,
        max_delay_ms: int,
        max_queue_ms: int,
        merge: bool,
        padding: bool,
    ) -> None:
        self.max_batch, self.max_queue_rows = max_batch, max_queue_rows
        self.max_delay_s = max_delay_ms / 1e3 if merge else 0.0
        self.merge = merge
        self.padding = padding and merge
        axes = dict.fromkeys("xy", ((1, "width"),))
        self.workers = [Worker(self) for _ in range(workers)]
        self.observer = Observer()
        self.batcher = Batcher(
            self.workers,
            max_batch=max_batch,
            max_queue_rows=max_queue_rows,
            max_delay_ms=max_delay_ms,
            max_queue_ms=max_queue_ms,
            merge=merge,
            observer=self.observer,
            promise=Promise(frozenset("y"), frozenset("y")),
            padding=Padding({"x": axes["x"]}, {"y": axes["y"]}, largest=8) if padding else None,
        )

    @rule(wishes=st.lists(WISH, min_size=1, max_size=5))
    def submit(self, wishes: list[tuple[int, int, float | None, bool, int]]) -> None:
        for rows, width, patience_s, poison, priority in wishes:
            deadline = None if patience_s is None else self.loop.now + patience_s
            call = Call(len(self.calls), min(rows, self.max_batch), width, deadline, priority)
            call.poison = poison
            call.arrived = self.loop.now
            self.calls.append(call)
            x = np.full((call.rows, width), call.identity, np.float64)
            coroutine = self.batcher.run(
                {"x": x}, call.rows, deadline, priority=priority, timing=call.timing
            )
            call.task = self.loop.create_task(coroutine)

    @precondition(lambda self: self.calls)
    @rule(back=st.integers(1, 12))
    def cancel(self, back: int) -> None:
        call = self.calls[-min(back, len(self.calls))]
        if not call.task.done():
            call.cancelled = True
            call.task.cancel()

    @rule(turns=st.integers(1, 3))
    def turn(self, turns: int) -> None:
        self.run_turns(turns)

    @rule(index=st.integers(0, 2))
    def finish(self, index: int) -> None:
        worker = self.workers[index % len(self.workers)]
        if worker.done is not None:
            # As the thread worker does it: the loop calls back.
            self.loop.call_soon(worker.finish)
            self.run_turns(1)

    @rule(seconds=st.sampled_from([0.01, 0.05, 10.0]))
    def wait(self, seconds: float) -> None:
        self.run_turns(2)  # who was submitted is in the queue before the time passes
        self.loop.now += seconds
        self.run_turns(2)

    @precondition(lambda self: self.draining is None and len(self.calls) > 5)
    @rule()
    def drain(self) -> None:
        self.draining = self.loop.create_task(self.batcher.drain())

    @rule()
    def settle(self) -> None:
        """Let the loop come to rest: then no worker idles while there is work for it."""
        self.run_turns(6)
        waiting: dict[int, list[Call]] = {}
        for call in self.calls:
            if not call.runs and not call.task.done():
                waiting.setdefault(0 if self.padding else call.width, []).append(call)
        rows = sum(call.rows for calls in waiting.values() for call in calls)
        assert self.batcher.queued_rows == rows, "rows of nobody are counted in the queue"
        if rows and any(worker.done is None for worker in self.workers):
            assert self.max_delay_s, "an idle worker let a request wait"
            assert self.draining is None, "a drain waited for company"
            for calls in waiting.values():
                assert sum(call.rows for call in calls) < self.max_batch, "a full batch waited"
                oldest = min(call.arrived for call in calls)
                assert self.loop.now - oldest < self.max_delay_s, "somebody waited too long"

    @invariant()
    def the_queue_keeps_its_bound(self) -> None:
        if hasattr(self, "batcher"):
            largest = max([call.rows for call in self.calls], default=0)
            assert 0 <= self.batcher.queued_rows <= max(self.max_queue_rows, largest)
            assert self.observer.rows == self.batcher.queued_rows

    def teardown(self) -> None:
        try:
            if hasattr(self, "batcher"):
                self.end()
        finally:
            self.loop.set_exception_handler(lambda loop, context: None)
            self.raised.clear()
            for call in self.calls:
                call.task.cancel()
            self.run_turns(3)
            for call in self.calls:
                if not call.task.cancelled():
                    call.task.exception()  # looked at, so that asyncio does not mind
            self.loop.close()
            self.patch.undo()

    def end(self) -> None:
        """Drain and finish everything: everybody must have the answer that is theirs."""
        self.run_turns(3)
        if self.draining is None:
            self.draining = self.loop.create_task(self.batcher.drain())
        for _ in range(20 * len(self.calls) + 20):
            self.run_turns(4)
            for index in range(len(self.workers)):
                self.finish(index)
            if self.draining.done():
                break
        assert self.draining.done(), "the drain did not end"
        self.run_turns(3)
        assert self.batcher.queued_rows == self.observer.rows == 0
        assert self.observer.batches_closed == self.observer.batches_run
        for call in self.calls:
            self.check(call)

    def check(self, call: Call) -> None:
        assert call.task.done(), "somebody got no answer"
        if call.task.cancelled():
            assert call.cancelled
            return
        error = call.task.exception()
        if error is None:
            found = call.task.result()["y"]
            expected = np.full((call.rows, call.width), call.identity * 2 + 1)
            np.testing.assert_array_equal(found, expected)
            assert not call.poison
            timing = call.timing
            assert call.rows <= timing.batch_rows
            assert call.arrived <= timing.queued_at <= self.loop.now
            assert timing.queue_s >= 0
            assert timing.compute_s >= 0
        elif isinstance(error, InferenceFailed):
            assert call.poison, "a neighbour's poison failed this request"
        elif isinstance(error, DeadlineExceeded):
            assert call.deadline is not None
            assert call.deadline <= self.loop.now
        elif isinstance(error, Overloaded):
            assert call.runs == 0
            assert error.retry_after_s is not None
            assert error.retry_after_s >= 1
        else:
            assert isinstance(error, Stopping), repr(error)
            assert self.draining is not None
            assert call.runs == 0
        assert call.good_runs <= 1, "a request was computed again after it had been answered"

    def run_turns(self, count: int) -> None:
        async def turns() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        if self.raised:
            raise self.raised.pop(0)


def test_the_laws_of_batching_hold_whatever_comes():
    run_state_machine_as_test(
        Batching,
        settings=settings(
            max_examples=200,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_halves_of_a_failed_batch_are_not_computed_past_their_deadline():
    machine = Batching()
    machine.begin(1, 8, 40, 0, 0, True, False)
    machine.submit([(1, 1, None, False, 0)])
    machine.run_turns(4)
    machine.submit([(1, 1, 0.5, True, 0), (1, 1, 0.5, False, 0)])
    machine.run_turns(4)
    (worker,) = machine.workers
    machine.finish(0)
    machine.run_turns(4)
    assert [call.identity for call in worker.batch] == [1, 2]

    machine.loop.call_soon(worker.finish)  # it fails, and its halves are for the next turn
    machine.loop.now += 1.0
    machine.run_turns(4)

    assert worker.done is None
    assert [call.runs for call in machine.calls] == [1, 1, 1]
    machine.teardown()
