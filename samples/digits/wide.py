"""The digits network at the widths of ResNet-18, 64 to 512 channels: a parent to make smaller.

11.2 million parameters and 123 million multiplications a digit. Data, metric
and processing are those of model.py, which travels beside this file.
"""

from pathlib import Path

from model import (  # noqa: F401  (mlserve finds them by their names)
    LABELS,
    LICENCE,
    METRIC,
    PROCESSING,
    Digits,
    calibration,
    evaluation,
    jitter,
    sample,
    splits,
)
from torch import nn, randperm

NAME = "digits-wide"
DESCRIPTION = "Handwritten digits, 28×28 grey, light strokes on a dark ground; ResNet-18's widths"
FILES = ["model.py"]
TRAINING = {"epochs": 12, "learning_rate": 0.05, "batch_size": 32, "precision": "fp32"}
WEIGHTS = Path(__file__).with_name("wide.safetensors")
WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)
STRIDES = (2, 1, 2, 1, 2, 1, 2, 1)


def architecture() -> nn.Module:
    return Digits(stem=64, widths=WIDTHS, strides=STRIDES)


def model() -> nn.Module:
    from safetensors.torch import load_file

    if not WEIGHTS.is_file():
        raise FileNotFoundError(f"{WEIGHTS} is missing: run 'python train.py wide.py' beside it")
    network = architecture()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def student() -> nn.Module:
    """A quarter of each layer's channels, what `mlserve prune --ratio 0.75` leaves."""
    return Digits(stem=16, widths=tuple(width // 4 for width in WIDTHS), strides=STRIDES)


def training():
    """An epoch, in another order each time, each digit a little turned, scaled and moved."""
    images, classes = splits()["train"]
    for rows in randperm(len(images)).split(TRAINING["batch_size"]):
        yield jitter(images[rows]), classes[rows]
