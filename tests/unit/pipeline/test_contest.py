"""Threads: every number of them is timed, and the fewest that cost the same are taken."""

import pytest

from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import contest
from mlserve_cli.pipeline.contest import Entry
from mlserve_cli.search.trial import Trial


def entry(package, name="float"):
    steps = () if name == "float" else ({"step": "quantize"},)
    return Entry(Trial(key=name, name=name, steps=steps, state="passed"), package)


def test_all_cores_and_down_by_halves_to_one():
    assert contest.counts(8) == (8, 4, 2, 1)
    assert contest.counts(6) == (6, 3, 1)
    assert contest.counts(1) == (1,)


@pytest.mark.parametrize(("target", "instances"), [("latency", 1), ("throughput", 2)])
def test_a_tiny_model_is_run_with_one_thread_and_as_many_side_by_side_as_have_room(
    iris_package, target, instances
):
    package = iris_package()
    found = contest.run(
        [entry(package), entry(package, "other")],
        counts=(2, 1),
        cores=2,
        target=target,
        batch_sizes=(1, 8),
        seconds=0.05,
        progress=Silent(),
    )
    assert [trial.name for trial in found] == ["float", "other"]
    for trial in found:
        assert trial.threads in (1, 2)
        assert trial.instances == (instances if trial.threads == 1 else 1)
        assert [speed.batch for speed in trial.tuned] == [1, 8]
        assert trial.speeds == ()  # those of all cores stay what they were
        for speed in trial.tuned:
            rows = speed.batch * trial.instances / speed.p50_ms * 1e3
            assert speed.rows_per_s == pytest.approx(rows)
    first, other = found
    assert all(speed.speed_up == 1.0 for speed in first.tuned)
    assert all(speed.speed_up_low <= speed.speed_up <= speed.speed_up_high for speed in other.tuned)


def test_of_settings_that_cost_the_same_the_fewest_threads_win_and_for_rows_the_side_by_side():
    one, two = contest._Setting(1, 1), contest._Setting(2, 1)
    same = {(0, one, 1): [1e6, 1e6], (0, two, 1): [0.99e6, 0.99e6]}
    assert contest._best(same, 0, [two, one], [1], "latency") == one
    faster = {(0, one, 1): [1e6, 1e6], (0, two, 1): [0.6e6, 0.6e6]}
    assert contest._best(faster, 0, [two, one], [1], "latency") == two
    pair = contest._Setting(1, 2)  # two at once, each 1.1 ms: more rows than one in 0.6 ms
    rows = {(0, pair, 1): [1.1e6], (0, two, 1): [0.6e6]}
    assert contest._best(rows, 0, [two, pair], [1], "throughput") == pair
    assert contest._best(rows, 0, [two, pair], [1], "latency") != one
