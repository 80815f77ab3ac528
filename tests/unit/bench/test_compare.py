import random

import pytest

from mlserve_cli.bench.compare import PAIRS, Ratio, compare

US = 1_000
TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.fixture
def noisy():
    """Make a cost per run with noise of a few percent, the same each time."""

    def make(cost, seed):
        noise = random.Random(seed)
        return lambda rows: cost * US * noise.lognormvariate(0, 0.05)

    return make


@pytest.fixture
def side_by_side(workshop, clock):
    def run(first, second, **options):
        return compare(
            workshop("parent", first),
            workshop("child", second),
            seconds=0.02,
            threads=1,
            clock=clock,
            **options,
        )

    return run


def test_a_faster_child_is_seen_with_its_interval(side_by_side, noisy):
    (found,) = side_by_side(noisy(100, 1), noisy(50, 2), batch_sizes=(1,))
    assert found.faster
    assert not found.slower
    assert found.low < 0.5 < found.high or found.median == pytest.approx(0.5, rel=0.05)
    assert found.sentence().startswith(("1.9", "2.0"))
    assert f"{TIMES} faster (95 % " in found.sentence()
    assert found.sentence().endswith("at batch 1")


def test_a_slower_child_is_seen_at_the_batch_where_it_is_slower(workshop, clock):
    parent = workshop("parent", lambda rows: 100 * US)
    child = workshop("child", lambda rows: (100 if rows == 1 else 130) * US)
    one, eight = compare(parent, child, batch_sizes=(1, 8), seconds=0.02, threads=1, clock=clock)
    assert (one.batch, one.slower, one.faster) == (1, False, False)
    assert (eight.batch, eight.slower) == (8, True)
    assert one.speed_up() == "no significant difference"
    assert eight.speed_up() == f"0.77{TIMES} (0.77 … 0.77)"
    assert eight.sentence() == f"1.30{TIMES} slower (95 % 1.30 … 1.30) at batch 8"


def test_equal_packages_do_not_differ_beyond_noise(side_by_side, noisy):
    for found in side_by_side(noisy(100, 3), noisy(100, 4)):
        assert not found.slower
        assert not found.faster
        assert found.sentence() == f"no significant difference at batch {found.batch}"


def test_a_machine_that_slows_down_slows_both(side_by_side, clock):
    def cost(rows):
        return 100 * US * (1 + clock.now / 10e6)  # thrice as slow at the end

    (found,) = side_by_side(cost, cost, batch_sizes=(1,))
    assert not found.slower
    assert not found.faster


def test_the_two_take_turns_at_being_first(side_by_side, journal):
    side_by_side(lambda rows: 100 * US, lambda rows: 100 * US, batch_sizes=(1,))
    visits = [name for name, _ in journal]
    order = [name for name, before in zip(visits, ["", *visits], strict=False) if name != before]
    # The warm-up, then A B, B A, A B …: a package that ends one pair begins the next.
    assert order == [*(["parent", "child"] * (PAIRS // 2 + 1)), "parent"]


def test_a_child_of_single_rows_pays_for_each_of_them(workshop, clock):
    from mlserve_cli.runtime.manifest import BatchProof

    parent = workshop("parent", lambda rows: 100 * US)
    child = workshop("child", lambda rows: 50 * US, batch=BatchProof(invariant=False))
    one, eight = compare(parent, child, seconds=0.02, threads=1, clock=clock)
    assert one.median == pytest.approx(0.5)
    assert eight.median == pytest.approx(4.0)
    assert eight.slower


def test_what_looks_slower_is_looked_at_again(side_by_side, clock, journal):
    runs = []

    def child(rows):
        runs.append(clock.now)
        return (110 if len(runs) < 120 else 100) * US  # other work came and went

    (found,) = side_by_side(lambda rows: 100 * US, child, batch_sizes=(1,))
    assert found.pairs == 2 * PAIRS
    assert not found.slower


def test_two_percent_is_where_memory_lies_not_speed():
    assert not Ratio(batch=1, median=1.015, low=1.01, high=1.02).slower
    assert Ratio(batch=1, median=1.03, low=1.01, high=1.05).slower
    assert not Ratio(batch=1, median=1.03, low=0.99, high=1.05).slower
    assert not Ratio(batch=1, median=0.985, low=0.98, high=0.99).faster
    assert Ratio(batch=1, median=0.9, low=0.85, high=0.95).faster


def test_less_than_a_microsecond_is_no_difference():
    assert not Ratio(batch=1, median=1.1, low=1.05, high=1.2, difference_us=0.6).slower
    assert Ratio(batch=1, median=1.1, low=1.05, high=1.2, difference_us=6.0).slower


def test_the_facts_say_which_way_the_ratio_goes(side_by_side):
    (found,) = side_by_side(lambda rows: 100 * US, lambda rows: 40 * US, batch_sizes=(1,))
    facts = found.facts()
    assert facts["verdict"] == "faster"
    assert facts["time_ratio"] == pytest.approx(0.4)
    assert facts["difference_us"] == pytest.approx(-60.0)
    assert facts["pairs"] == PAIRS


def test_engines_are_closed_when_it_is_interrupted(side_by_side, workshop):
    def interrupted(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(lambda rows: 100 * US, interrupted)
    assert workshop.engines["parent"].closed
    assert workshop.engines["child"].closed
