"""Accuracy-aware int8 on networks that plain int8 ruins: what is found, and what is left behind."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import aware
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.searching import Goal
from mlserve_cli.pipeline.variant import Gate
from mlserve_cli.search.candidate import StepChoice

STATIC = StepChoice(step="quantize", parameters={"method": "static", "cache": False})

# Networks this small are no faster in int8, so that what is asked here is accuracy alone.
GOAL = Goal(gate=Gate(max_drop=1.0, batch_sizes=(1,), allow_slower=True, seconds=0.1), seconds=0.1)


def quantize(package, target, cases, goal=GOAL, **named):
    return aware.quantize(
        STATIC, package, target, cases=cases, goal=goal, progress=Silent(), **named
    )


def test_the_layers_that_destroy_int8_are_found_and_left_in_float(hostile_package, cases, tmp_path):
    found = quantize(hostile_package, tmp_path / "out", cases)
    whole = next(trial for trial in found.trials if trial.name == aware.NAME)
    assert whole.state == "inaccurate"
    assert whole.accuracy.drop > 20  # points: plain int8 ruins it
    assert {"one", "two"} <= set(found.excluded)  # who makes the tensor and who takes it
    assert "head" not in found.excluded
    assert found.verdict.refusals == ()
    assert found.verdict.drop.value <= 1.0
    assert found.evaluations <= 6
    package = Package.open(tmp_path / "out")
    assert package.manifest.lineage[-1].parameters["exclude"] == sorted(found.excluded)
    (gate,) = package.evidence("gate")
    assert gate["refusals"] == []
    assert not (tmp_path / "out.refused").exists()


def test_a_model_that_loses_nothing_takes_one_evaluation(residual_package, cases, tmp_path):
    goal = Goal(gate=Gate(max_drop=3.0, batch_sizes=(1,), allow_slower=True), seconds=0.1)
    found = quantize(residual_package, tmp_path / "out", cases, goal)
    assert found.excluded == ()
    assert found.evaluations == 1


def test_a_goal_that_no_set_reaches_leaves_the_best_beside_its_place(
    hostile_package, cases, tmp_path
):
    goal = Goal(gate=GOAL.gate, seconds=0.1, evaluations=2)
    found = quantize(hostile_package, tmp_path / "out", cases, goal)
    assert found.evaluations == 2
    assert "2 evaluations" in found.stopped
    assert not (tmp_path / "out").exists()
    best = Package.open(tmp_path / "out.refused")
    assert best.manifest.digest == found.verdict.package.manifest.digest
    assert found.verdict.refusals
    # With more evaluations it goes on from there, and what was refused goes.
    again = quantize(hostile_package, tmp_path / "out", cases, resume=True)
    assert again.verdict.refusals == ()
    assert (tmp_path / "out").is_dir()
    assert not (tmp_path / "out.refused").exists()
    assert again.evaluations + found.evaluations <= 6


def test_killed_while_it_looks_it_has_left_the_best_so_far(
    hostile_package, cases, tmp_path, monkeypatch
):
    from mlserve_cli.pipeline import trying

    judge, judged = trying.Bench.judge, []

    def dying(self, built):
        if len(judged) == 2:
            raise KeyboardInterrupt
        judged.append(judge(self, built))
        return judged[-1]

    monkeypatch.setattr(trying.Bench, "judge", dying)
    with pytest.raises(KeyboardInterrupt):
        quantize(hostile_package, tmp_path / "out", cases)
    monkeypatch.undo()
    least = min(judged, key=lambda trial: trial.accuracy.drop)
    assert Package.open(tmp_path / "out.refused").manifest.digest == least.digest
    again = quantize(hostile_package, tmp_path / "out", cases, resume=True)
    assert again.verdict.refusals == ()
    assert {trial.key for trial in judged} <= {trial.key for trial in again.trials}


def test_the_command_says_what_stays_in_float_and_ends_with_1_where_the_goal_is_not_reached(
    hostile_package, cases, tmp_path
):
    from mlserve_cli.cli.main import app

    def run(*more):
        return CliRunner().invoke(app, [
            "quantize", str(hostile_package.path), "-o", str(tmp_path / "out"),
            "--calibration", cases.calibration_data, "--data", cases.data,
            "--accuracy-aware", "--allow-slower", "--batch", "1", "--max-drop", "1", *more,
        ])  # fmt: skip

    refused = run("--json", "--evaluations", "1")
    assert refused.exit_code != 0
    document = json.loads(refused.stdout)
    assert document["accepted"] is False
    assert document["package"].endswith("out.refused")
    done = run("--resume")
    assert done.exit_code == 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("left in float")]
    assert {"one", "two"} <= set(line.partition(": ")[2].split(", "))


@pytest.mark.slow
def test_a_network_of_a_hundred_layers_is_searched_in_at_most_fifteen_evaluations(pack, tmp_path):
    """Fifty residual blocks of two products; in two of them 8 bits cannot hold what is between."""
    bad = (11, 37)
    rows = np.random.default_rng(1).normal(size=(600, 64)).astype(np.float32)
    package = pack(_deep(tmp_path / "deep.onnx", bad), {"x": rows[:64]}, tmp_path / "deep")
    calibration, held = tmp_path / "calibration.npz", tmp_path / "held.npz"
    np.savez(calibration, x=rows[:100])
    np.savez(held, x=rows[100:])
    cases = Cases(data=str(held), calibration_data=str(calibration))
    goal = Goal(
        gate=Gate(max_drop=4.0, batch_sizes=(1,), allow_slower=True, seconds=0.1), seconds=0.1
    )
    found = quantize(package, tmp_path / "out", cases, goal)
    assert found.verdict.refusals == ()
    culprits = {f"{part}{block}" for block in bad for part in ("up", "down")}
    assert culprits <= set(found.excluded)
    assert len(found.excluded) <= 12
    assert found.evaluations <= 15
    assert len(found.trials) <= 15


def _deep(path, bad):
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    width, nodes, weights, now = 64, [], {"zero": np.zeros(64, np.float32)}, "x"
    for block in range(50):
        up, down = (rng.normal(size=(width, width)) * width**-0.5 for _ in range(2))
        down *= 0.3
        if block in bad:
            up[:, 3] *= 1000
            down[3] /= 1000
        weights |= {f"up{block}.w": up, f"down{block}.w": down}
        nodes += [
            helper.make_node("Gemm", [now, f"up{block}.w", "zero"], [f"h{block}"], f"up{block}"),
            helper.make_node("Relu", [f"h{block}"], [f"r{block}"], f"relu{block}"),
            helper.make_node(
                "Gemm", [f"r{block}", f"down{block}.w", "zero"], [f"d{block}"], f"down{block}"
            ),
            helper.make_node("Add", [now, f"d{block}"], [f"x{block}"], f"add{block}"),
        ]
        now = f"x{block}"
    weights["head.w"] = rng.normal(size=(width, 10)) / 8
    nodes.append(helper.make_node("MatMul", [now, "head.w"], ["y"], "head"))
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("x", 1, ["batch", width])],
        [helper.make_tensor_value_info("y", 1, ["batch", 10])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)
    return path
