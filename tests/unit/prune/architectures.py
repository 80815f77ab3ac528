# ruff: noqa: TID253, N812
"""Small networks of each kind that pruning must get right, with norms that are not fresh ones."""

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """Four blocks that add to their input (He et al., 2015), three of them in one shape."""

    class Block(nn.Module):
        def __init__(self, inside, outside, stride=1):
            super().__init__()
            self.one = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(outside)
            self.two = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(outside)
            self.around = (
                nn.Identity()
                if inside == outside and stride == 1
                else nn.Conv2d(inside, outside, 1, stride)
            )

        def forward(self, x):
            y = F.relu(self.norm1(self.one(x)))
            return F.relu(self.norm2(self.two(y)) + self.around(x))

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.blocks = nn.Sequential(
            self.Block(16, 16), self.Block(16, 16), self.Block(16, 32, 2), self.Block(32, 32)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        return self.head(self.blocks(F.relu(self.stem(image))).mean((2, 3)))


class Depthwise(nn.Module):
    """Inverted bottlenecks (Sandler et al., 2018): wide, one filter a channel, narrow again."""

    class Block(nn.Module):
        def __init__(self, inside, outside):
            super().__init__()
            wide = 4 * inside
            self.layers = nn.Sequential(
                nn.Conv2d(inside, wide, 1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU6(),
                nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU6(),
                nn.Conv2d(wide, outside, 1, bias=False),
                nn.BatchNorm2d(outside),
            )
            self.adds = inside == outside

        def forward(self, x):
            return x + self.layers(x) if self.adds else self.layers(x)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.blocks = nn.Sequential(self.Block(16, 16), self.Block(16, 24), self.Block(24, 24))
        self.head = nn.Linear(24, 10)

    def forward(self, image):
        return self.head(self.blocks(F.relu(self.stem(image))).mean((2, 3)))


class Grouped(nn.Module):
    """Convolutions in four groups and group norms (Xie et al., 2017; Wu and He, 2018)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.inner = nn.Conv2d(32, 64, 1)
        self.norm = nn.GroupNorm(4, 64)
        self.grouped = nn.Conv2d(64, 64, 3, padding=1, groups=4)
        self.outer = nn.Conv2d(64, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        x = F.relu(self.stem(image))
        y = F.relu(self.grouped(F.relu(self.norm(self.inner(x)))))
        return self.head(F.relu(x + self.outer(y)).mean((2, 3)))


class Concatenated(nn.Module):
    """Every layer reads all before it (Huang et al., 2017), and branches joined as in Inception."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.dense = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(16 + 16 * index), nn.ReLU(), nn.Conv2d(16 + 16 * index, 16, 3, 1, 1)
            )
            for index in range(3)
        )
        self.branches = nn.ModuleList(
            [nn.Conv2d(64, 16, 1), nn.Conv2d(64, 24, 3, padding=1), nn.Conv2d(64, 16, 5, padding=2)]
        )
        self.head = nn.Linear(56, 10)

    def forward(self, image):
        found = [self.stem(image)]
        for layer in self.dense:
            found.append(layer(torch.cat(found, 1)))
        x = F.relu(torch.cat(found, 1))
        x = torch.cat([F.relu(branch(x)) for branch in self.branches], 1)
        return self.head(x.mean((2, 3)))


class Encoder(nn.Module):
    """Torch's own encoder layers: (batch, 8, 8) → 10 classes."""

    def __init__(self, layers=3):
        super().__init__()
        self.embed = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 256, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        return self.head(self.encoder(self.embed(image.flatten(1, 2))).mean(1))


class Fused(nn.Module):
    """Attention as many write it: one layer for query, key and value, the norm first."""

    class Layer(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.num_heads, self.head_dim = heads, width // heads
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            q, k, v = (
                each.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
                for each in self.qkv(self.norm1(x)).chunk(3, dim=-1)
            )
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + self.proj(mixed)
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 64)
        self.layers = nn.Sequential(*(self.Layer(64, 4) for _ in range(3)))
        self.head = nn.Linear(64, 10)

    def forward(self, image):
        return self.head(self.layers(self.embed(image.flatten(1, 2))).mean(1))


class Bert(nn.Module):
    """Hugging Face's modules, built from a configuration: ids and a mask → 5 classes."""

    def __init__(self):
        super().__init__()
        from transformers import BertConfig, BertModel

        self.encoder = BertModel(
            BertConfig(
                vocab_size=60,
                hidden_size=32,
                num_hidden_layers=3,
                num_attention_heads=4,
                intermediate_size=256,
                max_position_embeddings=16,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
        self.head = nn.Linear(32, 5)

    def forward(self, input_ids, attention_mask):
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return self.head(found.last_hidden_state.mean(1))


PICTURES = (Residual, Depthwise, Grouped, Concatenated)
TRANSFORMERS = (Encoder, Fused, Bert)


def build(kind):
    """A network whose norms and biases are not those of a fresh one, in eval mode."""
    torch.manual_seed(0)
    network = kind().eval()
    for layer in network.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.3)
            layer.running_var.uniform_(0.5, 1.5)
        if isinstance(layer, nn.MultiheadAttention):
            nn.init.normal_(layer.in_proj_bias, std=0.3)
    return network


def example(kind, rows=4):
    """Inputs that it takes."""
    torch.manual_seed(1)
    if kind is Bert:
        mask = torch.ones(rows, 6, dtype=torch.long)
        mask[1:, 4:] = 0
        return (torch.randint(0, 60, (rows, 6)), mask)
    return (torch.rand(rows, 1, 8, 8),)
