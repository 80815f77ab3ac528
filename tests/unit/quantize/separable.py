# ruff: noqa: TID253, N812
"""Scikit-learn's 8×8 digits, and a depthwise network whose channels are far from alike.

Trained in two seconds, then rescaled without a change to what it computes: a channel is multiplied
by up to 2⁹, and the next layer divides by as much. One scale for all channels of a tensor then
leaves most of them a few levels, as it does, less evenly, in known depthwise networks (Nagel et
al., "Data-free quantization", 2019).
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

TRAINING = {"epochs": 12, "learning_rate": 0.1}
WIDTH, SPREAD = 16, 9


def block(inside, outside, size, groups=1):
    return nn.Sequential(
        nn.Conv2d(inside, outside, size, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
    )


class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = block(1, WIDTH, 3)
        self.blocks = nn.ModuleList(
            nn.ModuleList([block(WIDTH, WIDTH, 3, WIDTH), block(WIDTH, WIDTH, 1)]) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, image):
        x = F.relu(self.stem(image))
        for depthwise, pointwise in self.blocks:
            x = F.relu(pointwise(F.relu(depthwise(x))))
        return self.head(x.mean((2, 3)))


def splits():
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    return (images[:1400], data.target[:1400]), (images[1400:], data.target[1400:])


def architecture():
    return Separable()


def model():
    from mlserve_cli.package.progress import Silent
    from mlserve_cli.training.loop import train
    from mlserve_cli.training.options import TrainingOptions

    torch.manual_seed(0)
    network = Separable()
    train(
        network,
        lambda: (((torch.tensor(i),), torch.tensor(t)) for i, t in training()),
        options=TrainingOptions(**TRAINING, precision="fp32"),
        loss=F.cross_entropy,
        seed=0,
        progress=Silent(),
    )
    spread(network)
    return network


@torch.no_grad()
def spread(network):
    order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(1))
    factors = torch.logspace(0, SPREAD, WIDTH, 2)[order]
    first, second = network.blocks
    for before, after in ((network.stem, first[0]), (first[1], second[0])):
        before[1].weight *= factors
        before[1].bias *= factors
        after[0].weight /= factors[:, None, None, None]


def sample():
    return splits()[0][0][:16]


def calibration():
    yield splits()[0][0][:300]


def training():
    images, classes = splits()[0]
    for rows in torch.randperm(len(images)).split(70):
        yield images[rows], classes[rows]


def evaluation():
    yield splits()[1]
