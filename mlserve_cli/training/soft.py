"""Learning from another network's answers beside the targets (Hinton, Vinyals and Dean, 2015).

    loss = alpha · T² · KL(teacher / T ‖ student / T) + (1 − alpha) · the task's own loss

The answers are logits, classes in dimension 1, where the targets are classes. Where the targets
are floating-point numbers there is nothing to soften, and the squared difference takes KL's place.
Rows without targets are enough where alpha is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from mlserve_cli.errors import StepError
from mlserve_cli.training import losses, precision
from mlserve_cli.training.loop import Loss, Teach
from mlserve_cli.training.losses import main_output

if TYPE_CHECKING:
    import torch

Answer = Callable[[tuple["torch.Tensor", ...]], Any]
"""Inputs in their order → what the teacher answers, perhaps with what it held inside."""

Comparison = Literal["classes", "values", "directions"]
"""How two answers are compared: KL of softened logits, squared difference, or angle."""


def asked(teacher: torch.nn.Module, *, kind: str) -> Answer:
    """What a torch module answers first, in float32; it learns nothing.

    kind: what it computes in; "auto" is what pays for it.
    """
    import torch

    device = precision.device()
    kind = precision.choose(kind, device, teacher)
    teacher.to(device).eval()
    precision.arrange(teacher)

    def answer(inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        with torch.no_grad(), precision.autocast(kind, device):
            return main_output(teacher(*precision.place(inputs, device))).float()

    return answer


def lesson(asked: Answer) -> Teach:
    """What the loop asks at each step: the targets, and beside them what the teacher answers."""
    return lambda inputs, targets: (targets, asked(inputs))


def soft_loss(
    task: Loss, *, temperature: float, alpha: float, comparison: Comparison | None = None
) -> Loss:
    """The loss for targets of a `lesson`; targets that are missing are `()`.

    comparison: without one, "classes" where the targets are whole numbers, else "values".
    Raises `StepError` where targets are missing and alpha leaves them a share.
    """

    def loss(outputs: Any, pair: Any) -> torch.Tensor:
        targets, answer = pair
        scores = main_output(outputs)
        check_shapes(answer, scores)
        how = comparison or ("classes" if _are_classes(targets) else "values")
        if how == "classes" and answer.ndim > 1:
            soft = losses.softened(scores, answer, temperature)
        elif how == "directions":
            soft = losses.angle(scores, answer)
        else:
            soft = losses.squared(scores, answer)
        if alpha == 1:
            return soft
        check_targets(targets, alpha)
        return alpha * soft + (1 - alpha) * task(outputs, targets)

    return loss


def check_targets(targets: Any, alpha: float) -> None:
    """Raise `StepError` where rows have no targets and alpha leaves these a share of the loss."""
    if isinstance(targets, tuple) and not targets and alpha < 1:
        raise StepError(
            f"rows come without targets, and alpha is {alpha:g}: "
            f"{1 - alpha:g} of the loss would be the targets'.",
            hint="--alpha 1 learns from the teacher alone; or let training() yield "
            "(inputs, targets)",
        )


def check_shapes(teacher: torch.Tensor, student: torch.Tensor) -> None:
    """Raise `StepError` unless both answer in the same shape."""
    if teacher.shape != student.shape:
        raise StepError(
            f"the teacher answers {tuple(teacher.shape)} and the student {tuple(student.shape)}; "
            "the student must answer in the same shape.",
            hint="mend student() in the definition, or take a teacher that answers in that shape",
        )


def _are_classes(targets: Any) -> bool:
    return hasattr(targets, "is_floating_point") and not targets.is_floating_point()
