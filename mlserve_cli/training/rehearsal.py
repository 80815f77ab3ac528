"""A step without consequences, and what every step makes of outputs, losses and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.training import precision, randomness
from mlserve_cli.training.inputs import Batch
from mlserve_cli.training.losses import main_output

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A step of which nothing stays: nothing is learned, drawn, or counted by a normalization."""

    module: torch.nn.Module
    loss: Callable[[Any, Any], torch.Tensor]
    teach: Callable[[tuple[torch.Tensor, ...], Any], Any] | None
    device: str
    kind: str

    def scores(self, batch: Batch) -> Any:
        """What the network answers first, in eval mode: a tensor, or a class of the user's."""
        import torch

        self.module.eval()
        inputs = precision.place(batch[0], self.device)
        context = precision.autocast(self.kind, self.device)
        with randomness.apart(), translated(), torch.no_grad(), context:
            found = main_output(self.module(*inputs))
        self.module.train()
        return found

    def value(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch, as in training."""
        import torch

        inputs = precision.place(batch[0], self.device)
        targets = precision.move(batch[1], self.device)
        before = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        with randomness.apart(), translated(), torch.no_grad():
            try:
                if self.teach:
                    targets = self.teach(inputs, targets)
                with precision.autocast(self.kind, self.device):
                    outputs = self.module(*inputs)
                return number(self.loss(in_float32(outputs), targets))
            finally:
                for buffer, kept in before:
                    buffer.copy_(kept)


def number(value: Any) -> torch.Tensor:
    """What a loss answered. Raises `StepError` unless it is one number that can be learned from."""
    import torch

    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value
    shape = f" of {tuple(value.shape)}" if isinstance(value, torch.Tensor) else ""
    raise StepError(
        f"loss() returns {type(value).__name__}{shape}, where it must return a tensor that is one "
        "number.",
        hint="end it with .mean()",
    )


@contextmanager
def translated() -> Iterator[None]:
    """What goes wrong in a step of the user's network or loss, as a sentence."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise StepError(
            f"a training step fails: {first_line(error)}",
            hint="check what training() yields; a last batch of one row is one too small for "
            "batch normalization",
        ) from error


def in_float32(outputs: Any) -> Any:
    """Outputs in float32: a loss loses too much in bf16. Classes of the user's stay as they are."""
    import torch

    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if type(outputs) is dict:
        return {name: in_float32(value) for name, value in outputs.items()}
    if type(outputs) in (tuple, list):
        return type(outputs)(in_float32(value) for value in outputs)
    return outputs
