# ruff: noqa: TID253, N812
"""Networks to quantize: random weights in the shapes of known ones, and real digits.

Random weights say how fast an int8 kernel is and how far its answers move, not what that costs in
accuracy: `samples/digits` is there for that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SIDE = 96  # pixels
LENGTH, WIDTH = 64, 256  # tokens, channels


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inside, outside, 3, stride, 1)
        self.two = nn.Conv2d(outside, outside, 3, 1, 1)
        same = inside == outside and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x):
        return F.relu(self.two(F.relu(self.one(x))) + self.around(x))


class ResNet18(nn.Module):
    """The layers of ResNet-18 with BatchNorm already folded: (batch, 3, side, side) → 1,000."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, 3)
        widths = (64, 64, 128, 128, 256, 256, 512, 512)
        strides = (1, 1, 2, 1, 2, 1, 2, 1)
        inside = (64, *widths)
        self.blocks = nn.Sequential(
            *(Block(*each) for each in zip(inside, widths, strides, strict=False))
        )
        self.head = nn.Linear(512, 1000)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


class Layer(nn.Module):
    """An encoder layer that normalizes first, with a few loud channels as trained ones have."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        with torch.no_grad():
            for norm in (self.norm1, self.norm2):
                norm.weight[torch.randperm(width)[:4]] *= 40

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            each.reshape(batch, length, self.heads, -1).transpose(1, 2)
            for each in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """(batch, tokens, width) → 16 classes."""

    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Layer(WIDTH, 4) for _ in range(layers)))
        self.head = nn.Linear(WIDTH, 16)

    def forward(self, x):
        return self.head(self.layers(x).mean(1))


def export(net: nn.Module, x: np.ndarray, path: Path) -> None:
    """Write `net` as ONNX with a free batch."""
    program = torch.onnx.export(
        net.eval(),
        (torch.from_numpy(x[:2]),),
        dynamo=True,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=({0: "batch"},),
        opset_version=18,
        external_data=False,
        verbose=False,
    )
    program.save(str(path))


def pictures(count: int, random: np.random.Generator) -> np.ndarray:
    """Smooth random pictures, (count, 3, SIDE, SIDE): neighbours are alike, as in photographs."""
    small = random.normal(size=(count, 3, SIDE // 8, SIDE // 8)).astype(np.float32)
    big = F.interpolate(torch.from_numpy(small), size=SIDE, mode="bicubic").numpy()
    return big + 0.1 * random.normal(size=big.shape).astype(np.float32)


def tokens(count: int, random: np.random.Generator) -> np.ndarray:
    """(count, LENGTH, WIDTH) embeddings."""
    return random.normal(size=(count, LENGTH, WIDTH)).astype(np.float32)
