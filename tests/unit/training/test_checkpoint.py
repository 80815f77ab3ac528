# ruff: noqa: TID253
import errno
import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.training.checkpoint import Checkpoints
from mlserve_cli.training.loop import train
from mlserve_cli.training.options import TrainingOptions


class Listening(Silent):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def batches():
    for _ in range(6):
        yield (torch.rand(8, 4),), torch.randint(0, 3, (8,))


def run(keeper, *, progress=None, once=batches, seed=1, **options):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3)
    )
    history = train(
        module,
        once,
        options=TrainingOptions(**{"epochs": 2, "precision": "fp32"} | options),
        loss=torch.nn.functional.cross_entropy,
        seed=seed,
        progress=progress or Silent(),
        keeper=keeper,
    )
    return module, history


class Stop(Exception):
    pass


def stopping(after):
    """Batches that end the training as a crash would."""
    left = [after]

    def once():
        for batch in batches():
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            yield batch

    return once


def kept(folder, **more):
    return Checkpoints(folder=folder, **{"steps": 1, "resume": True} | more).stage("one")


def interrupted(folder):
    with pytest.raises(Stop):
        run(kept(folder), once=stopping(6 + 9))  # the counting pass, then nine of twelve steps


def test_an_ended_training_is_taken_up_and_not_trained_again(tmp_path):
    module, history = run(kept(tmp_path))
    progress = Listening()
    again, found = run(kept(tmp_path), progress=progress, once=stopping(0))
    assert "had ended before" in progress.said[0]
    assert found == history
    for a, b in zip(module.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_without_resume_what_is_there_is_not_looked_at(tmp_path):
    interrupted(tmp_path)
    _, history = run(kept(tmp_path, resume=False))
    assert history.resumed == ()


@pytest.mark.parametrize(
    ("change", "name"), [({"seed": 2}, "seed was 1, and is 2"), ({"epochs": 3}, "epochs was 2")]
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, change, name):
    interrupted(tmp_path)
    with pytest.raises(StepError, match=name):
        run(kept(tmp_path), **change)


def test_a_checkpoint_made_with_another_loss_is_refused_where_the_step_names_it(tmp_path):
    run(Checkpoints(folder=tmp_path).stage("one", temperature=4.0))
    with pytest.raises(StepError, match=r"temperature was 4\.0, and is 2\.0"):
        run(Checkpoints(folder=tmp_path, resume=True).stage("one", temperature=2.0))


def test_a_damaged_checkpoint_is_a_sentence(tmp_path):
    interrupted(tmp_path)
    path = tmp_path / "one.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StepError, match="cannot be read") as caught:
        run(kept(tmp_path))
    assert "--force" in caught.value.hint


@pytest.mark.parametrize("change", ["a bit", "a tensor less", "a fact"])
def test_a_checkpoint_that_is_readable_and_altered_is_refused(tmp_path, change):
    interrupted(tmp_path)
    path = tmp_path / "one.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        said = file.metadata()
    if change == "a bit":
        tensors["module/0.weight"][0, 0] += 1e-3
    elif change == "a tensor less":
        del tensors["random/cpu"]
    else:
        said["facts"] = said["facts"].replace('"steps": 9', '"steps": 8')
    save_file(tensors, path, metadata=said)
    with pytest.raises(StepError, match="what it holds is not what was written"):
        run(kept(tmp_path))


@pytest.mark.parametrize("facts", ["{}", "[]", '{"identity": 5}', "no JSON"])
def test_a_checkpoint_whose_facts_are_none_is_a_sentence(tmp_path, facts):
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors", metadata={"facts": facts})
    with pytest.raises(StepError, match="cannot be read"):
        run(kept(tmp_path))


def test_an_unfinished_training_is_not_thrown_away_unasked(tmp_path):
    output = tmp_path / "package"
    interrupted(tmp_path / "package.training")
    with pytest.raises(StepError, match="was not finished") as caught:
        Checkpoints.beside(output)
    assert "--resume" in caught.value.hint
    assert Checkpoints.beside(output, resume=True).folder == tmp_path / "package.training"


def test_force_replaces_an_unfinished_training_only_when_there_is_a_new_one(tmp_path):
    folder = tmp_path / "package.training"
    interrupted(folder)
    (folder / "one.safetensors").rename(folder / "two.safetensors")
    (folder / "share.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    forced = Checkpoints.beside(tmp_path / "package", force=True)
    with pytest.raises(StepError, match="a training step fails"):
        run(forced.stage("one"), once=lambda: [((torch.rand(8, 5),), torch.zeros(8).long())])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    _, history = run(forced.stage("one"))
    assert history.resumed == ()
    assert [path.name for path in folder.iterdir()] == ["one.safetensors"]
    forced.measured("ratio", lambda: 0.5)
    assert sorted(path.name for path in folder.iterdir()) == ["one.safetensors", "ratio.json"]


def test_a_disk_that_fills_costs_the_newest_checkpoint_alone(tmp_path, monkeypatch):
    """The write fails from the fourth step on: training ends, and the third can be resumed."""
    from safetensors import torch as safetensors

    writes, write = [], safetensors.save_file

    def filling(tensors, path, metadata):
        writes.append(path)
        if len(writes) > 3:
            Path(path).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(tensors, path, metadata=metadata)

    monkeypatch.setattr(safetensors, "save_file", filling)
    progress = Listening()
    module, _ = run(kept(tmp_path), progress=progress)
    told = [text for text in progress.said if "cannot be written" in text]
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert "the one before is kept" in told[0]
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]
    monkeypatch.undo()
    again, history = run(kept(tmp_path))
    assert history.resumed == (3,)
    assert torch.equal(module[0].weight, again[0].weight)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_really_full_is_no_error_of_the_training(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        progress = Listening()
        module, _ = run(kept(disk), progress=progress)
        expected, _ = run(kept(tmp_path / "elsewhere"))
        assert len([text for text in progress.said if "cannot be written" in text]) == 1
        assert torch.equal(module[0].weight, expected[0].weight)
        assert list(disk.glob("*.part")) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_checkpoint_is_a_safetensors_file_that_runs_no_code(tmp_path):
    interrupted(tmp_path)
    with safe_open(tmp_path / "one.safetensors", framework="pt") as file:
        names = set(file.keys())
        assert "facts" in file.metadata()
    assert {"module/0.weight", "optimizer/0/momentum_buffer", "random/cpu"} <= names


def test_the_job_that_the_kill_tests_run_draws_from_every_generator():
    """Else a resume that forgets one of them would pass."""
    spec = importlib.util.spec_from_file_location("job", Path(__file__).with_name("job.py"))
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    from mlserve_cli.training import randomness

    before = randomness.capture()
    list(job.batches())
    after = randomness.capture()
    assert not torch.equal(before.cpu, after.cpu)
    assert before.facts()["numpy"] != after.facts()["numpy"]
    assert before.facts()["python"] != after.facts()["python"]
