"""Which numbers of a server are looked at, and which of them come first."""

import math

import pytest

from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.search import serving
from mlserve_cli.search.queueing import Service
from mlserve_cli.search.serving import Wish

TIMES = {
    (threads, rows): 0.001 * (0.4 + 0.6 * rows) / speed
    for threads, speed in ((2, 1.6), (1, 1.0))
    for rows in (1, 2, 4, 8, 16, 32)
}
SERVICE = Service(times=TIMES, spread=(1.0, 1.0, 1.1), loop_s=5e-5)
BASE = Sizing(threads=2, max_batch=32)


def numbers(wish, service=SERVICE, base=BASE, **changes):
    options = {"cores": 2, "largest": 32} | changes
    found = list(serving.sizings(base, service, **options))
    return serving.promises(found, service, wish)


def test_the_usual_sizing_comes_first_and_none_comes_twice():
    found = list(serving.sizings(BASE, SERVICE, cores=2, largest=32))
    assert found[0] is BASE
    shown = [(s.threads, s.instances, s.max_batch, s.max_delay_ms, s.inline) for s in found]
    assert len(shown) == len(set(shown))
    assert {s.instances for s in found if s.threads == 1} == {1, 2}


def test_a_model_that_takes_one_batch_size_gets_no_other():
    found = list(
        serving.sizings(Sizing(max_batch=4, threads=1), SERVICE, cores=1, largest=32, only=4)
    )
    assert {s.max_batch for s in found} == {4}


def test_a_run_on_the_event_loop_has_one_instance_and_waits_for_nobody():
    base = Sizing(threads=1, max_batch=8, inline=True)
    found = [s for s in serving.sizings(base, SERVICE, cores=4, largest=8) if s.inline]
    assert found
    assert all(s.instances == 1 and not s.max_delay_ms for s in found)


def test_what_keeps_the_limit_comes_before_what_does_not():
    promises = numbers(Wish(p99_ms=10, rate=1200))
    keeps = [each.p99_ms <= 10 for each in promises]
    assert keeps[0]
    assert keeps == sorted(keeps, reverse=True)


def test_a_rate_far_beyond_what_can_be_answered_is_never_promised():
    assert all(math.isinf(each.p99_ms) for each in numbers(Wish(p99_ms=10, rate=1e6)))


def test_the_highest_rate_keeps_the_limit_and_a_tenth_more_does_not():
    best = numbers(Wish(p99_ms=8))[0]
    assert best.p99_ms <= 8
    more = serving.p99_ms(best.sizing, SERVICE, 1.1 * best.highest_rate)
    assert more > 8 or best.highest_rate == pytest.approx(best.capacity)


def test_no_rate_keeps_a_limit_that_is_below_a_lone_run():
    best = numbers(Wish(p99_ms=0.1))[0]
    assert best.highest_rate == 0


def test_batches_hold_whole_requests():
    service = Service(times=TIMES, rows=4)
    found = list(serving.sizings(BASE, service, cores=2, largest=32))
    assert all(each.max_batch >= 4 for each in found)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(p99_ms=20, rate=300), "300 requests a second with p99 within 20 ms"),
        (Wish(p99_ms=5, rows=8), "as many requests of 8 rows a second as keep p99 within 5 ms"),
    ],
)
def test_a_wish_is_a_sentence(wish, words):
    assert wish.sentence == words
