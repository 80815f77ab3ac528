"""Why this network is hard for eight bits: its weights rounded with one scale, and with many.

Only the weights are rounded, in PyTorch, so this says what the choice of the scale costs by itself.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mlserve_cli.package.definition import Definition

LEVELS = 127  # a signed byte, symmetric around zero


def folded(classifier: nn.Module) -> nn.Module:
    """The network as it is quantized: each normalization multiplied into its convolution.

    That is where the trouble begins: a channel's filter is divided by the spread of what it made.
    """
    network = copy.deepcopy(classifier).eval()
    parts = [(network.network, "_conv_stem", "_bn0"), (network.network, "_conv_head", "_bn1")]
    for block in network.network._blocks:
        parts += [
            (block, convolution, norm)
            for convolution, norm in (
                ("_expand_conv", "_bn0"),
                ("_depthwise_conv", "_bn1"),
                ("_project_conv", "_bn2"),
            )
            if hasattr(block, convolution)
        ]
    for owner, convolution, norm in parts:
        fused = fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm))
        setattr(owner, convolution, fused)
        setattr(owner, norm, nn.Identity())
    return network


def rounded(network: nn.Module, *, per_channel: bool) -> nn.Module:
    """Every convolution's weights as whole multiples of one scale, or of one scale a channel."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.data
            axes = (1, 2, 3) if per_channel else (0, 1, 2, 3)
            scale = weight.abs().amax(axes, keepdim=True).clamp_min(1e-12) / LEVELS
            module.weight.data = (weight / scale).round() * scale
    return network


def spread(network: nn.Module) -> tuple[str, float]:
    """The depthwise layer whose channels differ most, and how much: largest over middle."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            largest = module.weight.data.abs().amax((1, 2, 3))
            found[name] = float(largest.max() / largest.median())
    worst = max(found, key=lambda name: found[name])
    return worst, found[worst]


def scores(network: nn.Module, definition: Definition) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores of the held-out digits, (digits, 10), and what they are, (digits,)."""
    found, wanted = [], []
    with torch.inference_mode():
        for images, digits in definition.pairs("evaluation"):
            found.append(network(images))
            wanted.append(digits)
    return torch.cat(found), torch.cat(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    definition = Definition.load(Path(__file__).with_name("model.py"))
    network = folded(definition.function("model")())
    layer, times = spread(network)
    exact, digits = scores(network, definition)
    points = {"float": 100 * float((exact.argmax(1) == digits).float().mean())}
    error = {}
    for name in ("channel", "tensor"):
        found, _ = scores(rounded(network, per_channel=name == "channel"), definition)
        points[name] = 100 * float((found.argmax(1) == digits).float().mean())
        error[name] = float((found - exact).norm() / exact.norm())
    if as_json:
        print(json.dumps({"layer": layer, "spread": times, "points": points, "error": error}))
        return
    print(f"{layer}: its largest channel has {times:.0f} times the weights of the middle one")
    print(f"float                {points['float']:6.2f} points")
    for name in error:
        line = f"one scale a {name:<8} {points[name]:6.2f} points"
        print(f"{line}, the scores differ by {error[name]:.1%}")


if __name__ == "__main__":
    main()
