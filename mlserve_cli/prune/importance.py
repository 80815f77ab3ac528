"""How important a channel or a head is: the least important of a group go first.

l1, l2    the norm of all weights that make or read it, L2 being the sum of their squares
taylor    |weight · gradient| of them on training rows: how far the loss moves without it, to first
          order (Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019)
bn-scale  the scale of its batch normalization (Liu et al., "Network Slimming", 2017); groups that
          have none are ranked by l2

Scores are divided by their mean over the group, so that those of several groups can be ranked
together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.training import randomness

if TYPE_CHECKING:
    import torch

    from mlserve_cli.training.inputs import Batch
    from mlserve_cli.training.loop import Loss

KINDS = ("l1", "l2", "taylor", "bn-scale")

GRADIENT_BATCHES = 8
"""Training batches whose gradients are added up: ranks hardly change with more."""

Gradients = Callable[["torch.nn.Module"], None]
"""Leaves in every parameter's `.grad` the gradient of the loss over some training rows."""


def gradients(batches: Callable[[], Iterable[Batch]], loss: Loss) -> Gradients:
    """The gradients of `loss` over the first of `batches`, in eval mode. Raises `StepError`."""

    def compute(module: torch.nn.Module) -> None:
        import torch

        randomness.seed(0)  # the same rows each time, where training() shuffles
        module.eval()
        module.zero_grad(set_to_none=True)
        try:
            for inputs, targets in itertools.islice(batches(), GRADIENT_BATCHES):
                loss(module(*inputs), targets).backward()  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise StepError(
                f"the gradients for --importance taylor cannot be computed: {first_line(error)}",
                hint="--importance l2 needs none",
            ) from error
        for parameter in module.parameters():
            if parameter.grad is None:  # frozen, or not on the way to the loss
                parameter.grad = torch.zeros_like(parameter)

    return compute


def of_group(kind: str) -> Callable[[Any], Any]:
    """Torch-Pruning's ranking of that kind: a group → (channels,) scores, or None."""
    from torch_pruning import importance

    magnitude = importance.GroupMagnitudeImportance(p=2)
    match kind:
        case "l1":
            found = importance.GroupMagnitudeImportance(p=1)
        case "taylor":
            found = importance.GroupTaylorImportance()
        case "bn-scale":
            scale = importance.BNScaleImportance()

            def found(group: Any) -> Any:
                score = scale(group)
                return magnitude(group) if score is None else score
        case _:
            found = magnitude
    return found  # type: ignore[no-any-return]


def of_weight(kind: str, weight: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
    """The importance of every single weight, in the shape of `weight`."""
    weight = weight.detach()
    if kind == "taylor" and gradient is not None:
        return (weight * gradient).abs()
    return weight.abs() if kind == "l1" else weight.square()
