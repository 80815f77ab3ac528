"""Who goes first, and which requests make up a batch."""

import pytest

from mlserve_cli.runtime.waiting import LEVELS, STEP_S, USUAL, Request, Waiting, level_of


class Future:
    """As much of one as the queue looks at."""

    def __init__(self):
        self.error = None

    def done(self):
        return self.error is not None

    def set_exception(self, error):
        self.error = error


def request(arrived, *, level=USUAL, rows=1, key="a", deadline=None):
    rank = arrived + (level - USUAL) * STEP_S
    return Request({}, rows, (key,), Future(), deadline, arrived, level, rank, None)


def queue(*requests, max_batch=4, merge=True, max_delay_s=0.0):
    waiting = Waiting(max_batch=max_batch, merge=merge, max_delay_s=max_delay_s)
    for each in requests:
        waiting.add(each)
    return waiting


def next_batch(waiting, now=100.0):
    return waiting.cut(waiting.ripe(now), now)


@pytest.mark.parametrize(
    ("priority", "level"),
    [(0, USUAL), (1, 1), (2, 2), (7, 7), (LEVELS, LEVELS), (2**32 - 1, LEVELS), (-5, USUAL)],
)
def test_a_priority_is_a_level_within_bounds(priority, level):
    assert level_of(priority) == level


def test_the_urgent_overtake_and_those_of_a_level_keep_their_order():
    usual = [request(0.0), request(0.1)]
    low = [request(0.05, level=3), request(0.06, level=3)]
    urgent = [request(0.3, level=1), request(0.4, level=1)]
    waiting = queue(*low, *usual, *urgent, max_batch=6)

    assert next_batch(waiting).requests == [*urgent, *usual, *low]


def test_who_has_waited_long_is_overtaken_no_more():
    bulk = request(0.0, level=4)
    waiting = queue(bulk, max_batch=1)
    for second in range(20):
        waiting.add(request(float(second), level=1))

    order = [next_batch(waiting).requests[0] for _ in range(5)]

    assert bulk in order
    assert all(each.arrived <= 3 * STEP_S for each in order)


def test_a_batch_takes_the_queue_of_the_first_and_leaves_other_shapes():
    waiting = queue(request(1.0, key="a"), request(0.5, key="b"), request(2.0, key="b"))

    batch = next_batch(waiting)

    assert [each.arrived for each in batch.requests] == [0.5, 2.0]
    assert batch.closed == "shape"
    assert waiting.rows == 1


@pytest.mark.parametrize(
    ("sizes", "merge", "closed"),
    [
        ([1], True, "empty"),
        ([2, 2], True, "full"),
        ([3, 2], True, "full"),
        ([1, 1], False, "single"),
        ([1], False, "single"),
    ],
)
def test_a_batch_knows_why_it_was_closed(sizes, merge, closed):
    waiting = queue(*[request(float(i), rows=size) for i, size in enumerate(sizes)], merge=merge)

    assert next_batch(waiting).closed == closed


def test_who_is_past_the_deadline_is_told_and_left_out():
    late, fine = request(0.0, deadline=99.0), request(1.0, deadline=101.0)
    waiting = queue(late, fine)

    assert next_batch(waiting, now=100.0).requests == [fine]
    assert late.future.error.status == 504
    assert not waiting.queues
    assert waiting.rows == 0


def test_the_urgent_do_not_wait_for_company():
    waiting = queue(request(100.0), max_delay_s=0.5)
    assert waiting.ripe(100.2) == pytest.approx(0.3)

    waiting.add(request(100.2, level=1))

    assert len(next_batch(waiting, now=100.2).requests) == 2


def test_the_less_urgent_wait_for_company_no_longer_than_others():
    waiting = queue(request(100.0, level=9), max_delay_s=0.5)

    assert waiting.ripe(100.2) == pytest.approx(0.3)
    assert len(next_batch(waiting, now=100.5).requests) == 1


def test_rows_before_a_level_are_those_that_it_does_not_overtake():
    waiting = queue(request(0.0, rows=1, level=1), request(0.0, rows=2), request(0.0, level=9))

    assert [waiting.rows_before(level) for level in (1, 2, 9)] == [1, 3, 4]
    waiting.clear()
    assert waiting.rows_before(LEVELS) == waiting.rows == 0


def test_the_first_to_be_sent_away_is_the_last_of_the_less_urgent():
    last = request(5.0, level=3, key="b")
    waiting = queue(request(0.0), request(4.0, level=3), last)

    assert waiting.last_after(1) is last
    assert waiting.last_after(3) is None
