# ruff: noqa: TID253, N812
"""How much of a bare torch loop's speed does the training loop keep?

    python benchmarks/train/throughput.py    # three minutes; a GPU is taken where there is one

Both train the same network on the same batches, with SGD, clipped gradients, channels_last and the
same precision. The bare loop draws a batch, goes forwards and backwards, updates, and never looks
at the loss. Ours does all that it always does: it draws batches on a thread, watches the loss,
follows the schedule, and once more with a moving average and a checkpoint every 20 steps. The two
take turns, in rounds; the ratio is that of each round, and the median with its spread is printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mlserve_cli.package.progress import Silent
from mlserve_cli.training import precision
from mlserve_cli.training.checkpoint import NO_CHECKPOINTS, Checkpoints
from mlserve_cli.training.loop import train
from mlserve_cli.training.options import TrainingOptions

DIGITS = Path(__file__).parents[2] / "samples" / "digits"
Batches = Callable[[], Iterable[Any]]


class Counted:
    """An epoch of `count` batches that knows its length, so that nothing is drawn to count."""

    def __init__(self, draw: Callable[[], Any], count: int) -> None:
        self._draw, self._count = draw, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Any:
        return (self._draw() for _ in range(self._count))


class Encoder(nn.Module):
    """(batch, 64) tokens → (batch, 40): four layers of width 128, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 40)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embedding(ids)).mean(1))


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def cases(batch: int) -> dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], int]]:
    """Name → the network, how a batch is drawn, and the steps of a round."""
    sys.path.insert(0, str(DIGITS))
    import model as digits

    images, classes = digits.splits()["train"]

    def digit() -> Any:
        rows = torch.randint(0, len(images), (batch,))
        return (digits.jitter(images[rows]),), classes[rows]

    def glosses() -> Any:
        return (torch.randint(0, 1000, (batch, 64)),), torch.randint(0, 40, (batch,))

    def small() -> Any:
        return (torch.rand(batch, 64),), torch.randint(0, 10, (batch,))

    return {
        "digits, the sample's residual net": (digits.architecture, digit, 20),
        "encoder of 4 layers, with dropout": (Encoder, glosses, 20),
        "perceptron of three layers": (perceptron, small, 400),
    }


def bare(network: nn.Module, batches: Iterable[Any], kind: str, device: str) -> float:
    """Seconds of an epoch, as one would write it for this one network."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    began = time.perf_counter()
    for inputs, targets in batches:
        inputs, targets = precision.place(inputs, device), precision.move(targets, device)
        with precision.autocast(kind, device):
            outputs = network(*inputs)
        loss = F.cross_entropy(outputs.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def ours(
    network: nn.Module, batches: Iterable[Any], kind: str, *, ema: float, folder: str
) -> float:
    """Seconds of an epoch with all that surrounds it."""
    checkpoints = Checkpoints(folder=Path(folder), steps=20) if folder else NO_CHECKPOINTS
    began = time.perf_counter()
    train(
        network,
        lambda: batches,
        options=TrainingOptions(epochs=1, learning_rate=0.01, precision=kind, ema=ema),
        loss=lambda outputs, targets: F.cross_entropy(outputs, targets),
        seed=0,
        progress=Silent(),
        keeper=checkpoints.stage("round"),
    )
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=float, default=1.0, help="times the steps of a round")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    options = parser.parse_args()
    device = precision.device()
    where = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"{device} ({where}), batches of {options.batch}\n")
    print(f"{'network':44}{'':6}{'bare, steps/s':>15}{'ours':>8}{'with average, checkpoints':>28}")
    for name, (make, draw, steps) in cases(options.batch).items():
        steps = round(steps * options.steps)
        epoch = Counted(draw, steps)
        kind = precision.choose(options.precision, device, make())
        found: dict[str, list[float]] = {"bare": [], "plain": [], "kept": []}
        for number in range(options.rounds + 1):
            network = make().to(device).train()
            network.to(memory_format=torch.channels_last)
            times = {"bare": bare(network, epoch, kind, device)}
            times["plain"] = ours(make(), epoch, kind, ema=0.0, folder="")
            with tempfile.TemporaryDirectory() as folder:
                times["kept"] = ours(make(), epoch, kind, ema=0.99, folder=folder)
            if number:  # the first round warms up
                for key, value in times.items():
                    found[key].append(value)
        print(
            f"{name:44}{kind:6}{steps / statistics.median(found['bare']):15.1f}"
            f"{_share(found, 'plain'):>8}{_share(found, 'kept'):>28}"
        )


def _share(found: dict[str, list[float]], key: str) -> str:
    shares = sorted(b / o for b, o in zip(found["bare"], found[key], strict=True))
    low, high = shares[len(shares) // 4], shares[-1 - len(shares) // 4]
    return f"{statistics.median(shares):.0%} ({low:.0%} … {high:.0%})"


if __name__ == "__main__":
    main()
