# ruff: noqa: TID253
"""Scikit-learn's 8×8 digits, a row of pixels a token, read by torch's own encoder layers."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

TRAINING = {"epochs": 2, "optimizer": "adamw"}


class Encoder(nn.Module):
    """(batch, 8, 8) → 10 scores."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        return self.head(self.encoder(self.embed(image)).mean(1))


def splits():
    data = load_digits()
    images = (data.images / 16).astype(np.float32)
    return (images[:700], data.target[:700]), (images[1400:], data.target[1400:])


def architecture():
    return Encoder()


def model():
    torch.manual_seed(0)
    return Encoder()


def sample():
    return splits()[0][0][:16]


def training():
    images, classes = splits()[0]
    for rows in torch.randperm(len(images)).split(70):
        yield images[rows], classes[rows]


def evaluation():
    yield splits()[1]
