"""A model definition for pictures: plain functions and constants that mlserve finds by name.

It works as it is: a small network that reads 8×8 digits, trained in seconds on the 1,797 real ones
that come with scikit-learn. Replace the parts with your own. Only model() and sample() are needed
for an export; every other part says below what it is for, and may be left out.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

# What the package says of itself. NAME stands in URLs; without it, the folder's name is taken.
NAME = "digits"
VERSION = "1"
DESCRIPTION = "Handwritten digits, light strokes on a dark ground"
LICENCE = "Apache-2.0"

# One label a class, in the order of the output's columns. Answers are given in these words.
LABELS = [str(digit) for digit in range(10)]

# How a request's picture becomes the input "image", and the output "scores" an answer. The server
# carries this out without torch: decode, resize, (value / 255 - mean) / std.
PROCESSING = {
    "input": {"kind": "image", "tensor": "image", "width": 8, "height": 8, "channels": 1},
    "output": {"kind": "classes", "tensor": "scores", "softmax": True, "top_k": 3},
}

# What evaluate and the gates of quantize, prune and distill measure. In "points", 0.97 is 97.
METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}

# What train, prune and distill train with.
TRAINING = {"epochs": 6, "learning_rate": 0.1}

# Files beside this one that it needs; they travel with the package.
# FILES = ["weights.safetensors"]

# Sizes beside the batch that may differ from request to request: input, axis, a name of your own.
# DYNAMIC = {"image": {2: "height", 3: "width"}}


class Digits(nn.Module):
    """(batch, 1, 8, 8) → scores (batch, 10)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width * 16, 10)

    # The names of forward's arguments are the names of the model's inputs.
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(image)))
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.head(x.flatten(1))


def architecture() -> nn.Module:
    """The network without its trained weights, so that a package can rebuild it. Optional: else
    model() is called again."""
    return Digits(width=64)


@cache
def model() -> nn.Module:
    """The trained model. Yours will rather load its weights than train here."""
    torch.manual_seed(0)
    network = architecture()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(TRAINING["epochs"]):
        for images, digits in training():
            optimizer.zero_grad()
            F.cross_entropy(network(images), digits).backward()
            optimizer.step()
    return network.eval()


def student() -> nn.Module:
    """A smaller network for `mlserve distill`. Optional."""
    return Digits(width=16)


def sample() -> torch.Tensor:
    """A few real inputs: the export is traced and compared with them."""
    return split("train")[0][:32]


def calibration():
    """Batches of real inputs, for int8's ranges and for statistics. Optional: else sample()."""
    yield from split("train")[0][:256].split(64)


def training():
    """Batches of (inputs, targets), once an epoch, for train, prune and distill. Optional."""
    images, digits = split("train")
    for rows in torch.randperm(len(images)).split(64):
        yield images[rows], digits[rows]


def evaluation():
    """Batches of (inputs, targets) that training never saw. Optional, but every gate needs it."""
    images, digits = split("test")
    yield from zip(images.split(64), digits.split(64), strict=True)


# def metric(outputs, targets):
#     """One value a sample, or one number. Optional: METRIC["name"] may be accuracy, mae, rmse."""
#     return (outputs["scores"].argmax(axis=1) == targets).astype(float)


# def loss(outputs, targets):
#     """What training minimizes. Optional: cross-entropy for classes, squared error for numbers."""
#     return F.cross_entropy(outputs, targets)


@cache
def split(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (rows, 1, 8, 8) with values in 0 … 1, and digits: "train", or "test" (a third)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    held_out = torch.arange(len(data.target)) % 3 == 0
    rows = held_out if name == "test" else ~held_out
    images = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    return images[rows], torch.tensor(data.target)[rows]
