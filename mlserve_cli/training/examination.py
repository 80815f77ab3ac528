"""A first look at all rows, before hours of training: what is no number, and labels out of range.

Every batch of an epoch is drawn once to be counted, and looked at then. Those that look odd are
given to the network and its loss: a network may know what to do with NaN, and a loss with labels
that are missing, so that only what comes of them decides. Where nothing is odd, nothing is run but
one forward pass, which says how many classes there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError
from mlserve_cli.training.inputs import Batch

if TYPE_CHECKING:
    import torch

WHERE = "the rows to learn from"


@dataclass(frozen=True, slots=True)
class Odd:
    """A batch, its number from 1 on, and what is odd about it."""

    number: int
    what: str
    batch: Batch


@dataclass(slots=True)
class Examination:
    """What was seen so far: at most one batch of each kind is held."""

    count: int = 0
    _odd: dict[str, Odd] = field(default_factory=dict)
    _ends: dict[str, int] = field(default_factory=dict)
    _labelled: Batch | None = None

    def see(self, batch: Batch) -> None:
        """Look at the next batch."""
        self.count += 1
        inputs, targets = batch
        for tensor in inputs:
            self._no_numbers("an input", tensor, batch)
        for tensor in _tensors(targets):
            self._no_numbers("a target", tensor, batch)
        if hasattr(targets, "is_floating_point") and targets.numel():
            self._labels(targets, batch)

    def judge(
        self,
        scores_of: Callable[[Batch], Any],
        value_of: Callable[[Batch], torch.Tensor],
    ) -> None:
        """Let the loss say what it makes of the odd batches.

        scores_of: a batch → the first output. value_of: → the loss. Raises `StepError` where that
        is no number, and what `value_of` raises for labels.
        """
        import torch

        if self._labelled is not None:
            classes = _classes(scores_of(self._labelled))
            if classes == 1 or self._ends["low"] >= 0:
                self._odd.pop("low")
            if classes == 1 or self._ends["high"] < classes:
                self._odd.pop("high")
        for odd in self._odd.values():
            value = value_of(odd.batch)
            if not torch.isfinite(value).all():
                raise StepError(
                    f"batch {odd.number} of {WHERE} has {odd.what}, and the loss of it is "
                    f"{float(value):g}.",
                    hint="leave such rows out, or fill in what is missing",
                )

    def _no_numbers(self, kind: str, tensor: torch.Tensor, batch: Batch) -> None:
        import torch

        if kind in self._odd or not tensor.is_floating_point():
            return
        finite = torch.isfinite(tensor)
        if not finite.all():
            word = "NaN" if torch.isnan(tensor).any() else "an infinite number"
            what = f"{word} in {kind}"
            if tensor.ndim:
                row = int((~finite).reshape(len(tensor), -1).any(1).nonzero()[0]) + 1
                what += f", in row {row}"
            self._odd[kind] = Odd(self.count, what, batch)

    def _labels(self, targets: torch.Tensor, batch: Batch) -> None:
        """Keep the batches with the smallest and the largest whole number: classes begin at 0."""
        import torch

        if targets.is_floating_point() or targets.dtype == torch.bool:
            return
        self._labelled = self._labelled or batch
        low, high = (int(end) for end in targets.aminmax())
        for name, end, beyond in (("low", low, -1), ("high", high, 1)):
            if name not in self._ends or beyond * end > beyond * self._ends[name]:
                self._ends[name] = end
                self._odd[name] = Odd(self.count, f"targets from {low} to {high}", batch)


def check_classes(targets: torch.Tensor, classes: int, *, ignored: int = -100) -> None:
    """Raise `StepError` for a class that the network has no score of.

    ignored: what cross-entropy takes for a row without a class.
    """
    wrong = targets[((targets < 0) | (targets >= classes)) & (targets != ignored)]
    if wrong.numel():
        raise StepError(
            f"a target of {WHERE} is {int(wrong.reshape(-1)[0])}, and the network answers with "
            f"{classes} scores: classes are whole numbers from 0 to {classes - 1}.",
            hint=f"number the classes from 0 on; {ignored} leaves a row out of the loss",
        )


def _classes(scores: Any) -> int:
    """How many a network has scores of; 0 for a class of the user's, which its loss alone knows."""
    if not hasattr(scores, "is_floating_point"):
        return 0
    return int(scores.shape[1]) if scores.ndim > 1 else 1


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return [value] if hasattr(value, "is_floating_point") else []
