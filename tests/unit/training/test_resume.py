# ruff: noqa: TID253
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

JOB = Path(__file__).with_name("job.py")


def start(folder, result, *, seconds=0.0):
    return subprocess.Popen(
        [sys.executable, str(JOB), str(folder), str(result), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder, result):
    with start(folder, result) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of the training that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert "resumed at ()" in finish(folder / "kept", folder / "weights.safetensors")
    return load_file(folder / "weights.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_training_killed_at_a_random_step_ends_with_the_same_weights_bit_for_bit(
    tmp_path, whole, number
):
    folder, result = tmp_path / "kept", tmp_path / "weights.safetensors"
    step = random.Random().randint(4, 55)  # another one each time; the message names it
    with start(folder, result, seconds=0.02) as process:
        for line in process.stdout:
            if line == f"step {step}\n":
                process.send_signal(number)
                break
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert not result.exists()
    said = finish(folder, result)
    assert "goes on after step" in said
    assert same(load_file(result), whole), f"killed at step {step} by {number}"
