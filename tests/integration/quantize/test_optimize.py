"""The whole search on a network that was trained on real digits, down to the same digest again."""

import sqlite3

import numpy as np
import pytest

from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import contest, recipe
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.optimize import Goal, optimize, work_folder
from mlserve_cli.pipeline.replay import replay
from mlserve_cli.pipeline.variant import Gate
from mlserve_cli.search import choice


class Heard(Silent):
    """A progress that remembers its stages."""

    def __init__(self):
        self.stages = []

    def stage(self, text, total=None):
        self.stages.append(text)


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


@pytest.fixture(scope="module")
def mlp_onnx(tmp_path_factory, digits):
    """Two wide products and one to ten classes: where int8 wins on any CPU with VNNI or without."""
    import onnx
    from onnx import helper, numpy_helper
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    flat = digits.train[0].reshape(-1, 64)
    weights = {
        "w0": rng.normal(size=(64, 768)) / 8,
        "w1": rng.normal(size=(768, 768)) / 768**0.5,
    }
    hidden = np.maximum(np.maximum(flat @ weights["w0"], 0) @ weights["w1"], 0)
    fitted = LogisticRegression(max_iter=300).fit(hidden, digits.train[1])  # random features
    weights |= {"w2": fitted.coef_.T, "bias": fitted.intercept_}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "w0"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu0"),
        helper.make_node("MatMul", ["b", "w1"], ["c"], "second"),
        helper.make_node("Relu", ["c"], ["d"], "relu1"),
        helper.make_node("Gemm", ["d", "w2", "bias"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", 1, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["batch", 10])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    path = tmp_path_factory.mktemp("mlp") / "mlp.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path
    )
    return path


@pytest.fixture
def mlp(mlp_onnx, pack, digits, tmp_path):
    return pack(mlp_onnx, {"x": digits.train[0][:64]}, tmp_path / "mlp")


@pytest.mark.parametrize("target", ["latency", "throughput", "size"])
def test_what_is_wanted_is_what_is_won_and_nothing_that_was_tried_is_better(
    mlp, cases, tmp_path, target
):
    goal = Goal(
        target=target,
        gate=Gate(max_drop=2.0, batch_sizes=(1, 8), allow_slower=target == "size"),
        seconds=0.2,
    )
    found = search(mlp, tmp_path / "best", cases, goal=goal)
    passed = [trial for trial in found.trials if trial.state == "passed"]
    assert found.best.key in {trial.key for trial in passed}
    if found.best.steps:
        assert found.best.accuracy.drop <= 2.0
        beaten = choice.cost(found.baseline, target) / choice.cost(found.best, target)
        assert beaten > 1.0
    if target == "size":
        assert found.best.size_bytes < mlp.size_bytes / 3
        assert found.best.threads == 0  # nobody asked for time
    elif found.best.steps:
        assert found.best.threads in contest.counts(found.hardware.physical_cores)
        serving = recipe.read(tmp_path / "best.recipe.toml").serving
        assert serving["threads"] == found.best.threads
        (evidence,) = Package.open(tmp_path / "best").evidence("serving")
        assert evidence["instances"] == found.best.instances
    dynamic = next(trial for trial in found.trials if trial.name == "int8-dynamic")
    if not dynamic.invariant and dynamic.speeds:
        # It is served one row at a time, and timed so: eight rows are eight runs.
        one, eight = dynamic.speeds
        assert eight.p50_ms > 4 * one.p50_ms
    # The gate's figures travel with the package, for 'verify' elsewhere.
    if found.best.steps:
        (gate,) = Package.open(tmp_path / "best").evidence("gate")
        assert gate["refusals"] == []


def test_a_speed_that_is_out_of_reach_is_told_with_what_stands_in_the_way(mlp, cases, tmp_path):
    goal = Goal(
        gate=Gate(max_drop=2.0, batch_sizes=(1,), allow_slower=True), seconds=0.1, speed_up=1000.0
    )
    found = search(mlp, tmp_path / "best", cases, goal=goal)
    assert not found.reached
    assert any("of the time of" in sentence for sentence in found.limits)
    if found.best.steps:
        assert any("times as fast as the float model" in sentence for sentence in found.limits)


def test_steps_that_several_candidates_begin_with_are_made_once(mlp, cases, tmp_path, monkeypatch):
    from mlserve_cli.pipeline import steps as table
    from mlserve_cli.search.candidate import Candidate, StepChoice

    made = []
    build = table.build

    def counting(step, rows, **more):
        made.append(step.parameters.get("method"))
        return build(step, rows, **more)

    monkeypatch.setattr(table, "build", counting)
    # fp16 stands for what takes long (pruning and training), before two kinds of a second step.
    first = StepChoice(step="quantize", parameters={"method": "fp16"})

    def both(facts, trials):
        for name in ("torch", "nowhere"):
            second = StepChoice(step="engine", parameters={"engine": name})
            yield Candidate(name=name, steps=(first, second))

    found = search(mlp, tmp_path / "best", cases, generators=(both,))
    assert made.count("fp16") == 1
    assert [trial.state for trial in found.trials if trial.steps] == ["failed", "failed"]
    reasons = [trial.reason for trial in found.trials if trial.steps]
    assert "quantized" in reasons[0]
    assert "no engine" in reasons[1]
