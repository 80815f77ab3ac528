# ruff: noqa: TID253, N812
"""Scikit-learn's 8×8 digits and a small network with every coupling that pruning must respect."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

LABELS = [str(digit) for digit in range(10)]
TRAINING = {"epochs": 2, "learning_rate": 0.1, "label_smoothing": 0.0}


class Mixed(nn.Module):
    """Residual sum, depthwise and grouped convolutions, a concatenation; (batch, 1, 8, 8) → 10."""

    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)
        self.outer_norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pointwise = nn.Conv2d(width, 2 * width, 1)
        self.grouped = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=4)
        self.grouped_norm = nn.BatchNorm2d(2 * width)
        self.left = nn.Conv2d(2 * width, width, 1)
        self.right = nn.Conv2d(2 * width, width + 8, 1)
        self.head = nn.Linear(2 * width + 8, 10)

    def forward(self, image):
        x = F.relu(self.stem_norm(self.stem(image)))
        x = F.relu(x + self.outer_norm(self.outer(F.relu(self.inner(x)))))
        x = F.relu(self.pointwise(self.depthwise(F.max_pool2d(x, 2))))
        x = F.relu(self.grouped_norm(self.grouped(x)))
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.head(x.mean((2, 3)))


class Student(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1, stride=2)
        self.head = nn.Linear(16 * 16, classes)

    def forward(self, image):
        return self.head(F.relu(self.conv(image)).flatten(1))


def splits():
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    return (images[:1400], data.target[:1400]), (images[1400:], data.target[1400:])


def architecture():
    return Mixed()


def model():
    torch.manual_seed(0)
    return Mixed()


def student():
    return Student()


def sample():
    return splits()[0][0][:16]


def training():
    images, classes = splits()[0]
    for rows in torch.randperm(len(images)).split(70):
        yield images[rows], classes[rows]


def evaluation():
    yield splits()[1]
