"""The search on a queue that is worked out and not waited for."""

import numpy as np
import pytest

from mlserve_cli.bench.load import highest_rate, schedule
from mlserve_cli.bench.load.highest_rate import Objective, find, judge
from mlserve_cli.bench.load.histogram import Histogram
from mlserve_cli.bench.load.run import ClosedLoop, OpenLoop, Run
from tests.queue_theory import waits


def made(load, milliseconds, seconds, *, objective_ms=None, refused=0, **fields):
    """A run with those latencies."""
    over = int((milliseconds > objective_ms).sum()) if objective_ms else 0
    values = {
        "load": load,
        "seconds": seconds,
        "processes": 1,
        "planned": len(milliseconds),
        "sent": len(milliseconds) + refused,
        "answered": len(milliseconds),
        "completed": len(milliseconds),
        "statuses": {"503": refused} if refused else {},
        "errors": {},
        "latency": Histogram.of(milliseconds),
        "objective_ms": objective_ms,
        "over": over + refused,
    }
    return Run(**(values | fields))


class Queue:
    """A generator before an M/D/1 queue; remembers what it was asked for."""

    def __init__(self, service_s, interrupt_after=None):
        self.service_s, self.interrupt_after = service_s, interrupt_after
        self.loads = []

    def run(self, load, *, seconds, timeout_s=30.0, objective_ms=None, give_up_over=0):
        self.loads.append((load, seconds))
        interrupted = len(self.loads) == self.interrupt_after
        if isinstance(load, ClosedLoop):
            count = int(seconds / self.service_s)
            latencies = np.full(count, self.service_s * load.concurrency * 1e3)
            return made(load, latencies, seconds, interrupted=interrupted)
        times = schedule.poisson(load.rate, seconds, seed=load.seed)
        latencies = (waits(times, self.service_s) + self.service_s) * 1e3
        return made(load, latencies, seconds, objective_ms=objective_ms, interrupted=interrupted)


def test_the_rate_that_is_found_keeps_the_objective_and_a_little_more_does_not():
    service, objective = 2e-3, Objective(10)
    found = find(Queue(service), objective, seconds=20)
    assert found.rate is not None
    assert found.run.over <= 0.01 * found.run.sent

    def truly_over(rate):
        times = schedule.poisson(rate, 2000, seed=99)
        return ((waits(times, service) + service) * 1e3 > 10).mean()

    assert truly_over(found.rate) <= 0.01
    assert truly_over(1.25 * found.rate) > 0.01


def test_the_search_begins_below_what_a_closed_loop_shows_and_goes_on_with_open_ones():
    queue = Queue(2e-3)
    find(queue, Objective(20), seconds=5)
    (first, _), *others = queue.loads
    assert first == ClosedLoop(32)
    assert others[0][0].rate == pytest.approx(0.75 * 500, rel=0.01)
    assert all(isinstance(load, OpenLoop) and load.poisson for load, _ in others)
    assert len(others) <= 16


def test_the_rate_is_confirmed_with_other_times_than_it_was_chosen_by():
    queue = Queue(2e-3)
    found = find(queue, Objective(20), seconds=5)
    last = queue.loads[-1][0]
    assert last.rate == found.rate == found.run.load.rate
    assert last.seed not in {load.seed for load, _ in queue.loads[1:-1] if load.rate == last.rate}


def test_a_bracket_that_was_luck_is_fallen_from_in_growing_steps():
    class Lucky(Queue):
        """Quick at first; then other work comes, and it is ten times as slow."""

        def run(self, load, **named):
            self.service_s = 2e-3 if len(self.loads) < 4 else 2e-2
            return super().run(load, **named)

    queue = Lucky(2e-3)
    found = find(queue, Objective(100), seconds=20)
    assert found.rate is not None
    assert found.rate < 50  # what it can answer now
    assert len(found.trials) < 26


def test_an_objective_below_the_service_time_is_met_at_no_rate():
    found = find(Queue(5e-3), Objective(4), seconds=1)
    assert found.rate is None
    assert found.run is None
    assert {trial.verdict for trial in found.trials} <= {"missed", "unproven"}
    assert found.facts()["rate_per_s"] is None


def test_a_low_rate_is_tried_for_longer_since_few_requests_prove_nothing():
    queue = Queue(0.1)
    find(queue, Objective(1000), seconds=20, first_rate=10)
    load, seconds = queue.loads[0]
    assert seconds * load.rate >= 459
    assert seconds <= 80


def test_an_interrupted_search_ends_and_keeps_what_it_has():
    queue = Queue(2e-3, interrupt_after=3)
    found = find(queue, Objective(20), seconds=1)
    assert len(queue.loads) == 3
    assert found.rate is None
    assert len(found.trials) == 2


def test_failures_count_as_over():
    load = OpenLoop(rate=1000)
    fine = made(load, np.full(2000, 1.0), 2, objective_ms=10)
    refusing = made(load, np.full(2000, 1.0), 2, objective_ms=10, refused=100)
    assert judge([fine], Objective(10)) == "met"
    assert judge([refusing], Objective(10)) == "missed"
    assert refusing.goodput(10) == pytest.approx(2000 / 2100)


def test_few_requests_in_time_are_called_unproven():
    few = made(OpenLoop(rate=100), np.full(100, 1.0), 1, objective_ms=10)
    assert judge([few], Objective(10)) == "unproven"
    assert judge([few], Objective(10, percentile=90)) == "met"
    assert judge([few] * 5, Objective(10)) == "met"  # together they are enough


def test_a_run_that_was_given_up_missed():
    run = made(OpenLoop(rate=100), np.full(1000, 1.0), 1, objective_ms=10, gave_up=True)
    assert judge([run], Objective(10)) == "missed"


def test_the_precision_is_what_the_search_stops_at():
    found = find(Queue(2e-3), Objective(10), seconds=20)
    missed = [trial.rate for trial in found.trials if trial.verdict != "met"]
    above = [rate for rate in missed if rate > found.rate]
    assert min(above) / found.rate <= (1 + highest_rate.PRECISION) ** 2
