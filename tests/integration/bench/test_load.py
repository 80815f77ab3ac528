"""The load generator before a server whose behaviour is known: does it say what is true?"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from mlserve_cli.bench.load import Aim, ClosedLoop, Generator, OpenLoop, omission, schedule
from tests.integration.bench.conftest import MESSAGE
from tests.queue_theory import md1_wait, waits

pytestmark = pytest.mark.clock


def test_an_open_loop_finds_the_wait_that_theory_says(aimed):
    # Few arrivals, so that a default run stays short: of a seed whose queue is like that of many,
    # which tests/unit/bench/load/test_schedule.py compares with theory. The service takes long, so
    # that what this machine adds by itself does not count.
    service_ms, load, seconds, seed = 20.0, 0.6, 10.0, 37
    rate = load / service_ms * 1e3
    with Generator(aimed(service_ms=service_ms)) as generator:
        run = generator.run(
            OpenLoop(rate=rate, poisson=True, seed=seed), seconds=seconds, warm_up_s=0.5
        )
    assert run.answered == run.sent == run.planned
    times = schedule.poisson(rate, seconds + 0.5, seed=seed)
    exact_ms = waits(times, service_ms / 1e3)[times >= 0.5].mean() * 1e3
    # Two in five wait for nothing: theirs is the service, and what this machine adds to each.
    found_ms = run.latency.mean_ms - run.latency.percentile_ms(20)
    # Other work on the machine makes more of it, and then the run itself has to say so.
    allowed = 0.3 if run.limits() else 0.1
    theory_ms = md1_wait(load, service_ms)
    assert found_ms == pytest.approx(exact_ms, rel=allowed)
    assert found_ms == pytest.approx(theory_ms, rel=allowed)


def test_a_stall_shows_in_an_open_loop_and_a_closed_one_hides_it_and_says_so(aimed):
    stalling = {"service_ms": 2, "stall": [1.2, 400]}
    with Generator(aimed(**stalling)) as generator:
        closed = generator.run(ClosedLoop(1), seconds=3, warm_up_s=0.3)
    with Generator(aimed(**stalling)) as generator:
        opened = generator.run(OpenLoop(rate=100), seconds=3, warm_up_s=0.3)
    assert closed.latency.max_ms > 350
    assert closed.latency.percentile_ms(99) < 100
    assert opened.latency.percentile_ms(99) > 300
    assert opened.latency.max_ms == pytest.approx(402, abs=60)
    # About 40 of the 300 requests were to be sent into it.
    assert 30 <= round(opened.latency.total * (1 - opened.latency.share_within(20))) <= 60
    assert "a closed loop hides stalls" in omission.note(closed)
    assert omission.note(opened) is None


def test_a_closed_loop_gives_the_throughput_of_a_server_that_is_busy(aimed):
    with Generator(aimed(service_ms=5)) as generator:
        one = generator.run(ClosedLoop(1), seconds=0.8, warm_up_s=0.1)
        four = generator.run(ClosedLoop(4), seconds=0.8, warm_up_s=0.1)
    assert one.throughput == pytest.approx(200, rel=0.12)
    assert four.throughput == pytest.approx(200, rel=0.05)
    assert four.latency.percentile_ms(50) == pytest.approx(20, rel=0.05)  # Little's law


def test_several_processes_share_a_load_and_add_up(aimed):
    with Generator(aimed(service_ms=1), processes=2) as generator:
        opened = generator.run(OpenLoop(rate=200), seconds=1.5, warm_up_s=0.1)
        closed = generator.run(ClosedLoop(3), seconds=0.5, warm_up_s=0.1)
    assert opened.processes == 2
    assert opened.sent == opened.answered == opened.planned == 300
    assert opened.throughput == pytest.approx(200, rel=0.02)
    assert closed.latency.percentile_ms(50) == pytest.approx(3, rel=0.3)


def test_answers_with_an_error_are_counted_by_status_and_are_no_latency(aimed):
    with Generator(aimed(every=4, then="503")) as generator:
        run = generator.run(OpenLoop(rate=400), seconds=1, objective_ms=1000, warm_up_s=0.1)
    assert run.sent == 400
    assert run.statuses == {"503": pytest.approx(100, abs=1)}
    assert run.answered == run.latency.total == 400 - run.statuses["503"]
    assert run.over == run.failures
    assert run.goodput(1000) == pytest.approx(0.75, abs=0.01)
    assert run.throughput == pytest.approx(300, rel=0.02)


def test_requests_that_nobody_answers_are_given_up_and_counted_with_their_time(aimed):
    with Generator(aimed(every=10, then="silence")) as generator:
        run = generator.run(
            OpenLoop(rate=200), seconds=1, timeout_s=0.3, objective_ms=100, warm_up_s=0.1
        )
    assert run.errors == {"timeout": pytest.approx(20, abs=1)}
    assert run.answered + run.failures == run.sent == 200
    assert run.latency.total == 200  # they are late, and so in the distribution
    assert run.latency.percentile_ms(99) == pytest.approx(325, abs=60)


@pytest.mark.parametrize("load", [ClosedLoop(4), OpenLoop(rate=300)], ids=["closed", "open"])
def test_connections_that_break_are_counted_and_the_load_goes_on(aimed, load):
    with Generator(aimed(service_ms=1, every=10, then="drop")) as generator:
        run = generator.run(load, seconds=1, warm_up_s=0.1)
    assert run.errors.keys() == {"connection lost"}
    assert run.errors["connection lost"] == pytest.approx(run.sent / 10, rel=0.1)
    assert run.answered + run.failures == run.sent
    assert run.answered > 200


@pytest.mark.parametrize("what", ["close", "chunked"])
def test_answers_that_close_or_come_in_chunks_are_answers(aimed, what):
    with Generator(aimed(every=3, then=what)) as generator:
        opened = generator.run(OpenLoop(rate=300), seconds=1, warm_up_s=0.1)
        closed = generator.run(ClosedLoop(2), seconds=0.3, warm_up_s=0.1)
    assert opened.failures == closed.failures == 0
    assert opened.answered == 300
    assert closed.answered > 300


def test_a_port_where_nothing_listens_is_counted_as_refused():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        aim = Aim(host="127.0.0.1", port=probe.getsockname()[1], messages=[MESSAGE])
        with Generator(aim) as generator:
            opened = generator.run(OpenLoop(rate=100), seconds=0.5, warm_up_s=0.1)
            closed = generator.run(ClosedLoop(2), seconds=0.5, warm_up_s=0.1)
    assert opened.answered == closed.answered == 0
    assert opened.errors == {"connection refused": 50}
    assert closed.errors["connection refused"] >= 2
    assert opened.goodput(10) == 0.0


def test_a_long_answer_comes_whole(aimed):
    with Generator(aimed(body="x", times=1_000_000)) as generator:
        run = generator.run(ClosedLoop(2), seconds=0.5, warm_up_s=0.1)
    assert run.failures == 0
    assert run.answered > 20
    assert all(len(found) == 1_000_000 for _, found in run.samples)


def test_a_load_that_cannot_be_kept_up_waits_in_the_latencies(aimed):
    with Generator(aimed(service_ms=10)) as generator:
        run = generator.run(OpenLoop(rate=200), seconds=1, warm_up_s=0.0)
    assert run.throughput == pytest.approx(100, rel=0.05)
    assert run.answered == 200  # all are waited for
    assert run.latency.max_ms == pytest.approx(1010, rel=0.1)


def test_a_hopeless_run_is_given_up(aimed):
    with Generator(aimed(service_ms=10)) as generator:
        begun = time.monotonic()
        run = generator.run(
            OpenLoop(rate=200), seconds=20, objective_ms=20, give_up_over=20, warm_up_s=0.1
        )
    assert run.gave_up
    assert run.over > 20
    assert time.monotonic() - begun < 10


def test_ctrl_c_ends_a_run_with_what_was_counted(aimed):
    with Generator(aimed(service_ms=5)) as generator:
        timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        run = generator.run(ClosedLoop(2), seconds=60, warm_up_s=0.2)
        timer.join()
    assert run.interrupted
    assert 0.5 < run.seconds < 5
    assert run.throughput == pytest.approx(200, rel=0.15)


def test_a_generator_that_has_more_to_do_than_its_core_can_says_so(aimed):
    core = {max(os.sched_getaffinity(0))}
    with Generator(aimed()) as generator, contextlib.ExitStack() as others:
        os.sched_setaffinity(generator._processes[0]._process.pid, core)
        for _ in range(2):  # with a third of a core it is slower than any server
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            others.callback(other.wait)
            others.callback(other.kill)
            os.sched_setaffinity(other.pid, core)
        run = generator.run(OpenLoop(rate=150_000), seconds=0.5, timeout_s=5.0, warm_up_s=0.1)
    assert any("bottleneck itself" in limit for limit in run.limits())
    assert any("waited for a core" in limit for limit in run.limits())
    assert run.throughput < 150_000


def test_requests_that_a_held_up_generator_sent_late_are_counted_and_their_latency_holds_it(aimed):
    with Generator(aimed(service_ms=1)) as generator:
        pid = generator._processes[0]._process.pid
        timers = [
            threading.Timer(1.0, os.kill, (pid, signal.SIGSTOP)),
            threading.Timer(1.4, os.kill, (pid, signal.SIGCONT)),
        ]
        for timer in timers:
            timer.start()
        run = generator.run(OpenLoop(rate=100), seconds=2.0, warm_up_s=0.1)
    assert run.answered == run.sent == 200
    assert 25 <= run.late <= 80  # 40 were due while it was stopped
    assert any("were sent more than 1 ms late" in limit for limit in run.limits())
    assert run.late_max_ms == pytest.approx(400, abs=80)
    assert run.latency.max_ms > 300
