"""A training in a process of its own, which a test kills: `job.py OUTPUT RESULT [SECONDS]`.

It learns with dropout, momentum, an average, and random augmentation from all three libraries.
"""
# ruff: noqa: TID253

import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from mlserve_cli.package.definition import Metric
from mlserve_cli.package.progress import Silent
from mlserve_cli.training.checkpoint import Checkpoints
from mlserve_cli.training.loop import train
from mlserve_cli.training.options import TrainingOptions
from mlserve_cli.training.validation import Validation, accuracy

OPTIONS = TrainingOptions(
    epochs=4, learning_rate=0.05, ema=0.9, patience=3, precision="fp32", warmup=0.2
)
ROWS = 120


def network():
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
    )


def data():
    draws = np.random.default_rng(3)
    images = torch.tensor(draws.normal(size=(ROWS, 1, 8, 8)), dtype=torch.float32)
    return images, torch.tensor(draws.integers(0, 10, ROWS))


def batches():
    images, classes = data()
    for rows in torch.randperm(ROWS).split(8):
        noise = torch.tensor(np.random.normal(size=(len(rows), 1, 8, 8)), dtype=torch.float32)
        yield (images[rows] * random.uniform(0.8, 1.2) + 0.1 * noise,), classes[rows]


class Narrator(Silent):
    """Tells the test how far it is, and gives it time to kill."""

    def __init__(self, seconds):
        self.seconds, self.done = seconds, 0

    def say(self, text):
        print(text, flush=True)

    def advance(self, steps=1, note=""):
        self.done += steps
        print(f"step {self.done}", flush=True)
        time.sleep(self.seconds)


def run(output, result, *, seconds=0.0, every=3):
    torch.set_num_threads(1)
    module = network()
    checkpoints = Checkpoints(folder=Path(output), resume=True, steps=every)
    images, classes = data()
    history = train(
        module,
        batches,
        options=OPTIONS,
        loss=nn.functional.cross_entropy,
        seed=5,
        progress=Narrator(seconds),
        validation=Validation(
            batches=lambda: [((images[:40],), classes[:40])], metric=Metric(), score=accuracy
        ),
        keeper=checkpoints.stage("job"),
    )
    save_file(module.state_dict(), result)
    print(f"resumed at {history.resumed}", flush=True)
    return history


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], seconds=float(sys.argv[3]) if sys.argv[3:] else 0.0)
