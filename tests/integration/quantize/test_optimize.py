"""The whole search on a network that was trained on real digits, down to the same digest again."""

import sqlite3

import numpy as np
import pytest

from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import recipe
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.optimize import Goal, optimize, work_folder
from mlserve_cli.pipeline.replay import replay
from mlserve_cli.pipeline.variant import Gate


class Heard(Silent):
    """A progress that remembers its stages."""

    def __init__(self):
        self.stages = []

    def stage(self, text, total=None):
        self.stages.append(text)


@pytest.fixture
def cases(digits, tmp_path):
    calibration, held = tmp_path / "calibration.npz", tmp_path / "held.npz"
    np.savez(calibration, x=digits.train[0][:200])
    np.savez(held, x=digits.test[0], target=digits.test[1])
    return Cases(data=str(held), calibration_data=str(calibration))


SMALLEST = Goal(
    target="size", gate=Gate(max_drop=2.0, batch_sizes=(1,), allow_slower=True), seconds=0.1
)


def search(package, target, cases, progress=None, goal=SMALLEST, **named):
    return optimize(
        package,
        target,
        source=str(package.path),
        cases=cases,
        goal=goal,
        progress=progress or Silent(),
        **named,
    )


def test_the_smallest_that_loses_little_is_found_written_down_and_made_again(
    residual_package, cases, tmp_path
):
    found = search(residual_package, tmp_path / "best", cases)
    assert found.best.steps
    assert found.best.accuracy.drop <= 2.0
    package = Package.open(tmp_path / "best")
    assert package.manifest.digest == found.best.digest
    assert package.size_bytes < residual_package.size_bytes * 0.7
    written = recipe.read(tmp_path / "best.recipe.toml")
    assert written.digest == found.best.digest
    again = replay(written, tmp_path / "again", progress=Silent(), cache=tmp_path / "cache")
    assert again.same is True
    assert again.made == len(written.steps)
    cached = replay(written, tmp_path / "cached", progress=Silent(), cache=tmp_path / "cache")
    assert cached.same is True
    assert cached.made == 0


def test_a_search_that_is_resumed_makes_and_judges_nothing_again(residual_package, cases, tmp_path):
    first = search(residual_package, tmp_path / "best", cases)
    heard = Heard()
    second = search(residual_package, tmp_path / "best", cases, heard, resume=True)
    assert second.best == first.best
    assert second.evaluations == 0
    assert not [stage for stage in heard.stages if stage.startswith("making")]


def test_other_data_is_another_question_so_nothing_of_before_is_taken(
    residual_package, cases, digits, tmp_path
):
    search(residual_package, tmp_path / "best", cases)
    fewer = tmp_path / "fewer.npz"
    np.savez(fewer, x=digits.test[0][:100], target=digits.test[1][:100])
    other = Cases(data=str(fewer), calibration_data=cases.calibration_data)
    again = search(residual_package, tmp_path / "best", other, resume=True)
    assert again.evaluations > 0
    assert {trial.accuracy.n for trial in again.trials if trial.accuracy} == {100}


def test_what_was_found_is_on_the_disk_when_the_search_is_killed(
    residual_package, cases, tmp_path, monkeypatch
):
    from mlserve_cli.pipeline import trying

    judged = []
    judge = trying.Bench.judge

    def dying(self, built):
        if judged:
            raise KeyboardInterrupt
        judged.append(built.candidate.name)
        return judge(self, built)

    monkeypatch.setattr(trying.Bench, "judge", dying)
    with pytest.raises(KeyboardInterrupt):
        search(residual_package, tmp_path / "best", cases)
    monkeypatch.undo()
    assert Package.open(tmp_path / "best").manifest.variant != "fp32"
    with sqlite3.connect(work_folder(tmp_path / "best") / "trials.sqlite") as db:
        (count,) = db.execute("select count(*) from trials").fetchone()
    db.close()
    assert count >= 1
    found = search(residual_package, tmp_path / "best", cases, resume=True)
    assert found.evaluations >= 0
    assert Package.open(tmp_path / "best").manifest.digest == found.best.digest


def test_where_nothing_may_be_lost_and_nothing_wins_the_float_model_is_kept(
    residual_package, cases, tmp_path
):
    found = search(residual_package, tmp_path / "best", cases, generators=())
    assert found.best.steps == ()
    assert Package.open(tmp_path / "best").manifest.digest == residual_package.manifest.digest


def test_a_goal_that_is_not_reached_says_so_and_leaves_the_best(residual_package, cases, tmp_path):
    goal = Goal(target="size", gate=SMALLEST.gate, seconds=0.1, speed_up=1e6)
    found = search(residual_package, tmp_path / "best", cases, goal=goal)
    assert not found.reached
    assert (tmp_path / "best" / "manifest.json").is_file()
