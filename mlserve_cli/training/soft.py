"""Learning from another network's answers beside the targets (Hinton, Vinyals and Dean, 2015).

    loss = alpha · T² · KL(teacher / T ‖ student / T) + (1 − alpha) · the task's own loss

The answers are logits, classes in dimension 1, where the targets are classes. Where the targets
are floating-point numbers there is nothing to soften, and the squared difference takes KL's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError
from mlserve_cli.training import precision
from mlserve_cli.training.inputs import Batch
from mlserve_cli.training.loop import Loss
from mlserve_cli.training.losses import main_output

if TYPE_CHECKING:
    import torch


def taught(
    batches: Callable[[], Iterable[Batch]], teacher: torch.nn.Module, *, kind: str
) -> Callable[[], Iterator[Batch]]:
    """The same batches, their targets (targets, what the teacher answers).

    `kind` is the precision that the teacher computes in.
    """
    import torch

    device = precision.device()
    teacher.to(device).eval()
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def once() -> Iterator[Batch]:
        for inputs, targets in batches():
            with torch.no_grad(), precision.autocast(kind, device):
                answer = main_output(teacher(*precision.place(inputs, device)))
            yield inputs, (targets, answer.float())

    return once


def soft_loss(task: Loss, *, temperature: float, alpha: float) -> Loss:
    """The loss for batches of `taught`."""
    import torch.nn.functional as F  # noqa: N812  (its usual name)

    def loss(outputs: Any, pair: Any) -> torch.Tensor:
        targets, answer = pair
        scores = main_output(outputs)
        check_shapes(answer, scores)
        if _are_classes(targets) and answer.ndim > 1:
            # T² keeps the gradients' size the same for every temperature.
            soft = (
                temperature**2
                * F.kl_div(
                    F.log_softmax(scores / temperature, 1),
                    F.log_softmax(answer / temperature, 1),
                    reduction="none",
                    log_target=True,
                )
                .sum(1)
                .mean()
            )
        else:
            soft = F.mse_loss(scores, answer)
        return alpha * soft + (1 - alpha) * task(outputs, targets)

    return loss


def check_shapes(teacher: torch.Tensor, student: torch.Tensor) -> None:
    """Raise `StepError` unless both answer in the same shape."""
    if teacher.shape != student.shape:
        raise StepError(
            f"the teacher answers {tuple(teacher.shape)} and the student {tuple(student.shape)}; "
            "the student must answer in the same shape.",
            hint="mend student() in the definition",
        )


def _are_classes(targets: Any) -> bool:
    return hasattr(targets, "is_floating_point") and not targets.is_floating_point()
