import pytest

from mlserve_cli.runtime.pace import Pace


def paced(*batches, max_batch=8, workers=1):
    pace = Pace(max_batch=max_batch, workers=workers)
    for rows, seconds, backlog in batches:
        pace.ran(rows, seconds, backlog=backlog)
    return pace


def test_nothing_seen_is_no_reason_to_refuse():
    assert Pace(max_batch=8, workers=1).seconds(1000) == 0.0


def test_full_batches_teach_the_pace():
    pace = paced(*[(8, 0.08, True)] * 50)

    assert pace.seconds(80) == pytest.approx(0.8, rel=0.01)
    assert pace.retry_after_s(800) == 8


def test_workers_share_the_rows():
    assert paced(*[(8, 0.08, True)] * 50, workers=4).seconds(80) == pytest.approx(0.2, rel=0.01)


def test_lone_requests_do_not_make_a_burst_look_slow():
    pace = paced(*[(1, 0.04, False)] * 50)

    assert pace.seconds(16) <= 0.08 + 1e-9  # two full batches that may be as quick as one row


def test_one_slow_moment_is_forgotten_though_only_small_batches_follow():
    pace = paced(*[(8, 0.08, True)] * 50, (8, 60.0, True))
    slow = pace.seconds(8)
    for _ in range(30):
        pace.ran(1, 0.01, backlog=False)

    assert slow > 1
    assert pace.seconds(8) < 0.12


@pytest.mark.parametrize(("rows", "seconds"), [(0, 1), (1, 1), (10**9, 60)])
def test_clients_are_told_to_come_back_in_a_second_to_a_minute(rows, seconds):
    assert paced((8, 0.08, True)).retry_after_s(rows) == seconds
