# ruff: noqa: TID253, N812
"""Networks with random weights in the shapes of known ones, and rows for them.

Random weights say how fast a quantized network is and how far its answers move, not what that costs
in accuracy. Definitions of mlserve are made of them: see `definition`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

SIDE = 224  # pixels
LENGTH, VOCABULARY = 128, 30522  # tokens


def convolution(inside: int, outside: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, size, stride, size // 2, bias=False), nn.BatchNorm2d(outside)
    )


class Basic(nn.Module):
    """Two convolutions of 3 × 3 and a way around them."""

    expansion = 1

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.one = convolution(inside, width, 3, stride)
        self.two = convolution(width, width, 3)
        same = stride == 1 and inside == width
        self.around = nn.Identity() if same else convolution(inside, width, 1, stride)

    def forward(self, x):
        return F.relu(self.two(F.relu(self.one(x))) + self.around(x))


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, 1 × 1, and a way around them."""

    expansion = 4

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.one = convolution(inside, width, 1)
        self.two = convolution(width, width, 3, stride)
        self.three = convolution(width, 4 * width, 1)
        same = stride == 1 and inside == 4 * width
        self.around = nn.Identity() if same else convolution(inside, 4 * width, 1, stride)

    def forward(self, x):
        return F.relu(self.three(F.relu(self.two(F.relu(self.one(x))))) + self.around(x))


class ResNet(nn.Module):
    """(batch, 3, 224, 224) → 1,000 (He et al., 2015)."""

    def __init__(self, block: type[Basic] | type[Bottleneck], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = convolution(3, 64, 7, 2)
        blocks: list[nn.Module] = []
        inside = 64
        for stage, depth in enumerate(depths):
            for place in range(depth):
                stride = 2 if stage and not place else 1
                blocks.append(block(inside, 64 << stage, stride))
                inside = (64 << stage) * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inside, 1000)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


class Layer(nn.Module):
    """An encoder layer that normalizes last and projects thrice, as BERT's do."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            each(x).reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """(batch, 128) token ids → the mean of the last layer, (batch, width).

    Trained encoders have a few channels that are much louder than the rest; so has this.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(depth)))
        with torch.no_grad():
            for layer in self.layers:
                for norm in (layer.norm1, layer.norm2):
                    norm.weight[torch.randperm(width)[:4]] *= 10

    def forward(self, x):
        return self.layers(self.norm(self.words(x) + self.places.weight)).mean(1)


def resnet18() -> nn.Module:
    return _settled(ResNet(Basic, (2, 2, 2, 2)), pictures)


def resnet50() -> nn.Module:
    return _settled(ResNet(Bottleneck, (3, 4, 6, 3)), pictures)


def minilm() -> nn.Module:
    return Encoder(384, 6, 12).eval()


def bert() -> nn.Module:
    """BERT-base: 110 million parameters."""
    return Encoder(768, 12, 12).eval()


def _settled(net: nn.Module, rows) -> nn.Module:
    """With the statistics of its own activations in its BatchNorms, as training leaves them."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of what it saw
    net.train()
    with torch.no_grad():
        net(rows(16, 9))
    return net.eval()


def pictures(count: int, seed: int) -> torch.Tensor:
    """Smooth random pictures: neighbours are alike, as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(count, 3, SIDE // 16, SIDE // 16, generator=generator)
    big = F.interpolate(small, size=SIDE, mode="bicubic")
    return big + 0.1 * torch.randn(big.shape, generator=generator)


def tokens(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (count, LENGTH), generator=generator)


def definition(net: str, rows: str) -> str:
    """A definition of mlserve for one of these networks; this file goes beside it."""
    return f"""
import torch
import networks

FILES = ["networks.py"]
OUTPUTS = ["y"]

def model():
    torch.manual_seed(0)
    return networks.{net}()

def architecture():
    return model()

def sample():
    return networks.{rows}(8, 1)

def calibration():
    yield from networks.{rows}(64, 2).split(16)
"""
