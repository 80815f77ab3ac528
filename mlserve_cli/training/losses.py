"""The loss: the definition's own, else what the targets ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError
from mlserve_cli.training.examination import check_classes

if TYPE_CHECKING:
    import torch

    from mlserve_cli.package.definition import Definition
    from mlserve_cli.training.loop import Loss
    from mlserve_cli.training.options import TrainingOptions


def task_loss(definition: Definition, options: TrainingOptions) -> Loss:
    """loss() of the definition; else cross-entropy for integer targets, squared error for float."""
    if definition.has("loss"):
        return definition.function("loss")

    def default(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        import torch
        import torch.nn.functional as F  # noqa: N812  (its usual name)

        scores = main_output(outputs)
        shapes = f"outputs are {tuple(scores.shape)} and targets {tuple(targets.shape)}"
        if targets.is_floating_point():
            if scores.numel() != targets.numel():
                raise StepError(
                    f"the {shapes}, so they cannot be compared.",
                    hint="yield whole numbers where they are classes, or " + _LOSS,
                )
            return F.mse_loss(scores, targets.reshape(scores.shape))
        if scores.ndim < 2 or scores.shape[1] < 2 or scores.shape[0] != targets.shape[0]:
            raise StepError(
                f"the {shapes}; classes want outputs of (batch, classes) and targets of (batch,).",
                hint=_LOSS,
            )
        if not torch.is_grad_enabled():  # a first look at labels; a step would wait for the GPU
            check_classes(targets, scores.shape[1])
        return F.cross_entropy(scores, targets.long(), label_smoothing=options.label_smoothing)

    return default


def softened(scores: torch.Tensor, answer: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · KL of two sets of logits, classes in dimension 1, each divided by the temperature.

    T² keeps the gradients' size the same for every temperature (Hinton, Vinyals and Dean, 2015).
    """
    import torch.nn.functional as F  # noqa: N812  (its usual name)

    divergence = F.kl_div(
        F.log_softmax(scores / temperature, 1),
        F.log_softmax(answer / temperature, 1),
        reduction="none",
        log_target=True,
    )
    return temperature**2 * divergence.sum(1).mean()


def squared(scores: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """The mean squared difference: of numbers there is nothing to soften."""
    import torch.nn.functional as F  # noqa: N812  (its usual name)

    return F.mse_loss(scores, answer)


def angle(scores: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """1 − cosine in the last dimension: of embeddings only the direction is compared."""
    import torch.nn.functional as F  # noqa: N812  (its usual name)

    return (1 - F.cosine_similarity(scores, answer, dim=-1)).mean()


def main_output(outputs: Any) -> torch.Tensor:
    """The first output where a network has several."""
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    first: torch.Tensor = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    return first


_LOSS = "give loss(outputs, targets) in the definition"
