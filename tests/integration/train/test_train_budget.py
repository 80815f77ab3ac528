"""`optimize` with a budget for training: smaller networks in the precisions that won, replayed."""

from pathlib import Path

import pytest

from mlserve_cli.export.export import export
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import networks, recipe
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.optimize import Goal, optimize
from mlserve_cli.pipeline.replay import replay
from mlserve_cli.pipeline.variant import Gate

MIXED = Path(__file__).parents[2] / "unit" / "training" / "definitions" / "mixed.py"
ROWS = "def calibration():\n    yield splits()[0][0][:64]\n\n\n"


class Heard(Silent):
    def __init__(self):
        self.stages = []

    def stage(self, text, total=None):
        self.stages.append(text)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    text = MIXED.read_text().replace("def evaluation():", ROWS + "def evaluation():")
    (folder / "model.py").write_text(text)
    return export(
        str(folder / "model.py"), folder / "package", name="mixed", calibration=None,
        progress=Silent(),
    )  # fmt: skip


def goal(**changes):
    gate = Gate(max_drop=100.0, batch_sizes=(1,), allow_slower=True)
    return Goal(target="size", gate=gate, seconds=0.05, evaluations=30, **changes)


@pytest.fixture(scope="module")
def two_networks():
    """student() and half of the multiplications: the others take as long again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "SHARES", (0.5,))
        yield


def search(package, target, *, progress=None, resume=False, **changes):
    return optimize(
        package,
        target,
        source=str(package.path),
        cases=Cases.of(package),
        goal=goal(**changes),
        progress=progress or Silent(),
        resume=resume,
    )


@pytest.mark.slow  # four networks are written and proven, each in three precisions
def test_the_smallest_of_networks_and_precisions_is_found_and_made_again(
    package, two_networks, tmp_path
):
    found = search(package, tmp_path / "best", train_budget_s=300)
    trials = {trial.name: trial for trial in found.trials}
    assert trials["student"].training_s > 0
    assert trials["pruned-50"].state == "passed"
    assert found.best.steps[0]["step"] == "distill"
    assert found.best.steps[-1]["step"] == "quantize"
    assert found.best.size_bytes < min(trials["student"].size_bytes, trials["int8-mse"].size_bytes)
    combined = [trial for name, trial in trials.items() if name.startswith("student-int8")]
    assert combined
    assert not any(trial.training_s for trial in combined)  # their network was trained before
    written = recipe.read(tmp_path / "best.recipe.toml")
    again = replay(written, tmp_path / "again", progress=Silent(), cache=tmp_path / "cache")
    assert again.same is True

    heard = Heard()
    second = search(
        package, tmp_path / "best", progress=heard, resume=True, train_budget_s=300
    )  # fmt: skip
    assert second.best.digest == found.best.digest
    assert not [stage for stage in heard.stages if stage.startswith("making")]


def test_what_does_not_fit_into_the_budget_is_said_before_any_training(package, two_networks):
    found = networks.training_of(package, 0.001, Silent())
    assert [each.name for each in found.networks] == ["pruned-50", "student", "student-pruned"]
    assert all(each.seconds > 0 for each in found.networks)
    student = found.networks[1]
    assert student.macs == pytest.approx(4_864 / 372_368)
    from mlserve_cli.search.networks import plan

    assert len(plan(found, (), None).reasons) == 3


def test_a_package_that_cannot_be_trained_says_why_and_is_searched_all_the_same(tmp_path):
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 4])],
        [helper.make_tensor_value_info("y", 1, ["n", 4])],
        [weight],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).normal(size=(32, 4)).astype("f"))
    made = export(
        str(tmp_path / "m.onnx"), tmp_path / "package", name="m",
        calibration=str(tmp_path / "rows.npz"), progress=Silent(),
    )  # fmt: skip
    found = networks.training_of(made, 60.0, Silent())
    assert not found.networks
    assert "holds no torch module to train" in found.obstacle
