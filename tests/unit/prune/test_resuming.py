"""Fine-tuning after pruning: on again after a kill, validated, stopped where it diverges."""

import signal
import subprocess
import sys

import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.package import step
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.variant import Gate, make
from mlserve_cli.prune import PruneStep, target
from mlserve_cli.training.checkpoint import Checkpoints

RUN = "from mlserve_cli.cli.main import run; run()"
DIVERGES = (
    "def evaluation():",
    "calls = []\n\n\n"
    "def loss(outputs, targets):\n"
    "    calls.append(1)\n"
    "    factor = np.nan if len(calls) > 45 else 1\n"
    "    return F.cross_entropy(outputs, targets) * factor\n"
    "\n\ndef evaluation():",
)


class Killed(Silent):
    def __init__(self, after):
        self.left = after

    def advance(self, steps=1, note=""):
        self.left -= steps * note.startswith("loss")  # of training; a survey has steps, too
        if self.left == 0 and note.startswith("loss"):
            raise KeyboardInterrupt


class Listening(Silent):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.mark.parametrize(
    ("after", "asked"),
    [
        (13, {"importance": "taylor"}),  # in the first fine-tuning
        (33, {"importance": "taylor", "scope": "sensitivity"}),  # in the second
        (33, {"recover": "targets"}),
    ],
)
def test_a_pruning_that_was_killed_goes_on_and_ends_with_the_same_package(
    mixed_package, tmp_path, after, asked
):
    asked = {"iterations": 2, "epochs": 2, "macs": 0.4, **asked}
    whole = step.run(PruneStep(**asked), mixed_package, tmp_path / "whole", progress=Silent())
    folder = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        step.run(
            PruneStep(checkpoints=Checkpoints(folder=folder, steps=10), **asked),
            mixed_package,
            tmp_path / "again",
            progress=Killed(after),
        )
    progress = Listening()
    again = step.run(
        PruneStep(checkpoints=Checkpoints(folder=folder, resume=True), **asked),
        mixed_package,
        tmp_path / "again",
        progress=progress,
    )
    assert any("goes on after step 10" in line for line in progress.said)
    assert any("1 of 2 had ended before" in line for line in progress.said) == (after > 20)
    assert again.manifest.digest == whole.manifest.digest
    titles = [each["title"] for each in again.evidence("training")]
    assert titles == ["fine-tuning 1 of 2", "fine-tuning 2 of 2"]


def test_a_goal_in_time_is_measured_once_though_the_pruning_was_killed(
    mixed_package, tmp_path, monkeypatch
):
    """Another measurement would give another network, of which no checkpoint is."""
    measured = []

    def timed(survey, whole, goal, parent, progress, sharing):
        measured.append(goal.value)
        return target.counted(survey, whole, "macs", 0.5 + 0.2 * (len(measured) - 1), sharing)

    monkeypatch.setattr(target, "timed", timed)
    monkeypatch.setattr(
        "mlserve_cli.prune.speed.beside", lambda *_: type("T", (), {
            "candidate_ms": 1.0, "parent_ms": 2.0, "speedup": 2.0
        })(),
    )  # fmt: skip
    folder = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        step.run(
            PruneStep(speedup=2, epochs=1, checkpoints=Checkpoints(folder=folder, steps=5)),
            mixed_package,
            tmp_path / "made",
            progress=Killed(12),
        )
    made = step.run(
        PruneStep(speedup=2, epochs=1, checkpoints=Checkpoints(folder=folder, resume=True)),
        mixed_package,
        tmp_path / "made",
        progress=Silent(),
    )
    assert measured == [2]
    assert made.evidence("training")[0]["resumed_at_steps"] == [10]
    step.run(
        PruneStep(speedup=3, epochs=1, checkpoints=Checkpoints(folder=tmp_path / "other")),
        mixed_package,
        tmp_path / "other-made",
        progress=Silent(),
    )
    assert measured == [2, 3]


def test_a_fine_tuning_that_diverges_ends_it_and_is_refused_with_its_best_weights(
    package_of, tmp_path, monkeypatch
):
    parent = package_of(replace=[DIVERGES])
    monkeypatch.setattr("mlserve_cli.bench.compare.compare", lambda *_, **__: [])
    verdict = make(
        lambda _: PruneStep(epochs=3, iterations=2, recover="targets"),
        parent,
        tmp_path / "pruned",
        cases=Cases.of(parent),
        gate=Gate(max_drop=100),
        progress=Silent(),
    )
    (reason,) = verdict.refusals
    assert "training diverged: the loss is nan" in reason
    assert not (tmp_path / "pruned").exists()
    assert verdict.package.path == tmp_path / "pruned.refused"


def test_patience_without_rows_to_validate_with_is_refused_and_validation_gives_them(
    package_of, tmp_path
):
    patient = ('TRAINING = {"epochs": 2,', 'TRAINING = {"epochs": 2, "patience": 1,')
    with pytest.raises(StepError, match="patience asks for a validation metric"):
        step.run(
            PruneStep(epochs=1), package_of(replace=[patient]), tmp_path / "a", progress=Silent()
        )
    rows = "def validation():\n    yield tuple(a[:200] for a in splits()[0])\n\n\n"
    parent = package_of(replace=[patient, ("def evaluation():", rows + "def evaluation():")])
    made = step.run(PruneStep(epochs=1), parent, tmp_path / "b", progress=Silent())
    (evidence,) = made.evidence("training")
    assert evidence["metric"]["name"] == "accuracy"
    assert 0 < evidence["curve"][0]["validation"] <= 100


def mlserve(*words):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow  # three runs of the command line
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_mlserve_prune_killed_in_the_middle_goes_on_with_resume(mixed_package, tmp_path, number):
    words = ("prune", mixed_package.path, "--epochs", "20", "--iterations", "2",
             "--max-drop", "100", "--allow-slower")  # fmt: skip
    place = tmp_path / "pruned"
    process = mlserve(*words, "-o", place)
    for line in process.stderr:
        if "fine-tuning 2 of 2, 10 epochs" in line:
            process.send_signal(number)
            break
    _, said = process.communicate(timeout=120)
    assert process.returncode == (143 if number == signal.SIGTERM else -number), said
    assert (tmp_path / "pruned.training" / "fine-tuning-1.safetensors").is_file()
    assert not place.exists()

    process = mlserve(*words, "-o", place, "--resume")
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "1 of 2 had ended before" in said
    assert not (tmp_path / "pruned.training").exists()
    assert (tmp_path / "pruned.report.html").is_file()

    process = mlserve(*words, "-o", tmp_path / "whole")
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    whole = Package.open(tmp_path / "whole").manifest.digest
    assert Package.open(place).manifest.digest == whole
