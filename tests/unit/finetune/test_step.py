"""`mlserve train`: from a package alone, through the gates, and on again after a kill."""

# ruff: noqa: TID253
import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from mlserve_cli.cli.verdict import hint
from mlserve_cli.distill import DistillStep
from mlserve_cli.errors import StepError
from mlserve_cli.finetune import TrainStep
from mlserve_cli.package import step
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import steps
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.learning import page
from mlserve_cli.pipeline.variant import Gate, make
from mlserve_cli.prune import PruneStep
from mlserve_cli.search.candidate import StepChoice
from mlserve_cli.training import source

RUN = "from mlserve_cli.cli.main import run; run()"
VALIDATION = (
    "def evaluation():",
    "def validation():\n"
    "    images, classes = splits()[0]\n"
    "    yield images[:200], classes[:200]\n\n\n"
    "def evaluation():",
)


@pytest.fixture(scope="module")
def validated_package(package_of):
    return package_of(replace=[VALIDATION])


def run(what, parent, target):
    return step.run(what, parent, target, progress=Silent())


def test_a_package_learns_on_and_says_how(validated_package, tmp_path):
    made = run(TrainStep(epochs=2, ema=0.9), validated_package, tmp_path / "trained")
    record = made.manifest.lineage[-1]
    assert made.manifest.variant == "trained-fp32"
    assert (record.step, record.seed) == ("train", 0)
    (evidence,) = made.evidence("training")
    assert record.parameters == {
        "epochs": 2,
        "learning_rate": pytest.approx(0.02),
        "ema": 0.9,
        "precision": evidence["precision"],
    }
    assert [sorted(epoch) for epoch in evidence["curve"]] == [
        ["learning_rate", "loss", "validation"]
    ] * 2
    assert evidence["curve"][1]["loss"] < evidence["curve"][0]["loss"]
    assert evidence["metric"]["name"] == "accuracy"
    assert evidence["seed"] == 0


def test_what_was_pruned_or_distilled_is_trained_on_from_its_package(mixed_package, tmp_path):
    pruned = run(PruneStep(epochs=1), mixed_package, tmp_path / "pruned")
    trained = run(TrainStep(epochs=1), pruned, tmp_path / "trained")
    assert trained.manifest.variant == "trained-pruned-fp32"
    layer = source.load(trained).module.inner
    assert layer.out_channels == source.load(pruned).module.inner.out_channels < 16
    distilled = run(DistillStep(epochs=1), trained, tmp_path / "distilled")
    again = run(TrainStep(epochs=1), distilled, tmp_path / "again")
    assert source.load(again).entry == "student"
    assert run(TrainStep(epochs=1), again, tmp_path / "twice").manifest.variant == (
        "trained2-distilled-trained-pruned-fp32"
    )


def test_the_same_training_gives_the_same_digest(mixed_package, tmp_path):
    first = run(TrainStep(epochs=1, seed=3), mixed_package, tmp_path / "a")
    second = run(TrainStep(epochs=1, seed=3), mixed_package, tmp_path / "b")
    assert first.manifest.digest == second.manifest.digest


def test_a_recipe_may_name_the_step():
    found = steps.build(StepChoice(step="train", parameters={"epochs": 3}), None)
    assert found == TrainStep(epochs=3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"learning_rate": -1.0}, "> 0.0"), ({"ema": 1.0}, "< 1.0"), ({"precision": "int3"}, "int3")],
)
def test_options_out_of_range_are_refused_before_anything_is_read(mixed_package, wrong, said):
    with pytest.raises(StepError, match=said):
        TrainStep(**wrong).requires(mixed_package)


def test_a_training_that_diverges_later_is_refused_with_its_best_weights_kept(
    package_of, tmp_path, monkeypatch
):
    """The loss turns to NaN in the third epoch; the second's weights are there as X.refused."""
    parent = package_of(
        replace=[
            (
                "def evaluation():",
                "calls = []\n\n\n"
                "def loss(outputs, targets):\n"
                "    calls.append(1)\n"
                "    factor = np.nan if len(calls) > 45 else 1\n"
                "    return F.cross_entropy(outputs, targets) * factor\n"
                "\n\ndef evaluation():",
            )
        ]
    )
    monkeypatch.setattr("mlserve_cli.bench.compare.compare", lambda *_, **__: [])
    verdict = make(
        lambda _: TrainStep(epochs=4, learning_rate=0.05),
        parent,
        tmp_path / "trained",
        cases=Cases.of(parent),
        gate=Gate(),
        progress=Silent(),
    )
    (reason,) = verdict.refusals
    assert "training diverged: the loss is nan at step 6 of epoch 3" in reason
    assert verdict.package.path == tmp_path / "trained.refused"
    assert not (tmp_path / "trained").exists()
    assert verdict.package.manifest.lineage[-1].parameters["kept_epoch"] == 2
    assert verdict.after.value > verdict.before.value
    lost = replace(verdict, refusals=("it loses 9.00 points, and --max-drop allows 1.00",))
    assert hint(lost).startswith("train it longer with --epochs, use it from there, or allow more")
    written = page(verdict, verdict.package.evidence("training")).render()
    assert "training diverged" in written
    assert written.count("<figure>") == 1


def test_the_report_draws_the_loss_and_the_validation(validated_package, tmp_path, monkeypatch):
    monkeypatch.setattr("mlserve_cli.bench.compare.compare", lambda *_, **__: [])
    verdict = make(
        lambda _: TrainStep(epochs=2),
        validated_package,
        tmp_path / "trained",
        cases=Cases.of(validated_package),
        gate=Gate(),
        progress=Silent(),
    )
    written = page(verdict, verdict.package.evidence("training")).render()
    assert written.count("<figure>") == 2
    assert "accuracy, validation (points), higher is better" in written


def mlserve(*words):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.slow  # four runs of the command line
def test_a_killed_command_goes_on_with_resume_and_makes_the_same_package(mixed_package, tmp_path):
    words = ("train", mixed_package.path, "--epochs", "12", "--max-drop", "100", "--allow-slower")
    place = tmp_path / "trained"
    process = mlserve(*words, "-o", place)
    begun = tmp_path / "trained.training" / "train.safetensors"
    watch_until(lambda: "training, 12 epochs" in process.stderr.readline())
    time.sleep(0.3)  # some steps into it, wherever that is
    process.terminate()
    status, _, said = ended(process)
    assert status == 143
    assert "--resume" in said
    assert begun.is_file()
    assert not place.exists()

    status, _, said = ended(mlserve(*words, "-o", place))
    assert status == 1
    assert "was not finished" in said

    status, out, said = ended(mlserve(*words, "-o", place, "--resume", "--json"))
    assert status == 0, said
    assert "goes on after step" in said
    assert not begun.parent.exists()
    made = Package.open(place)
    assert made.evidence("training")[0]["resumed_at_steps"] != []
    assert json.loads(out)["report"] == str(place) + ".report.html"

    status, _, said = ended(mlserve(*words, "-o", tmp_path / "whole"))
    assert status == 0, said
    assert made.manifest.digest == Package.open(tmp_path / "whole").manifest.digest


def watch_until(seen):
    for _ in range(100):
        if seen():
            return
    raise AssertionError("it was not said")


def test_seeds_decide_the_weights(mixed_package, tmp_path):
    a, b = (
        source.load(run(TrainStep(epochs=1, seed=seed), mixed_package, tmp_path / str(seed))).module
        for seed in (1, 2)
    )
    assert not torch.equal(a.head.weight, b.head.weight)
