"""The training loop: SGD or AdamW, warm-up and cosine, clipping, bf16 where it pays."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import MlserveError, StepError, first_line
from mlserve_cli.package.progress import Progress
from mlserve_cli.training import precision
from mlserve_cli.training.inputs import Batch
from mlserve_cli.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch

Loss = Callable[[Any, Any], "torch.Tensor"]
"""(outputs, targets) → one number, differentiable."""

BLOWN_UP = 10.0
"""A loss this many times the first one (plus one) does not come back: clipping hides the NaN."""


@dataclass(frozen=True, slots=True)
class History:
    """What a training did: the mean loss of each epoch, its steps, its time."""

    losses: tuple[float, ...]
    steps: int
    seconds: float
    precision: str


def train(
    module: torch.nn.Module,
    batches: Callable[[], Iterable[Batch]],
    *,
    options: TrainingOptions,
    loss: Loss,
    seed: int,
    progress: Progress,
    title: str = "training",
) -> History:
    """Train `module` in place; it ends on the CPU, in eval mode.

    `batches` gives one epoch a call. The global random states are seeded first, so the same seed
    gives the same weights on the same CPU. Raises `StepError` when there is nothing to train on,
    a step fails, or the loss diverges.
    """
    import torch

    began = time.monotonic()
    device = precision.device()
    kind = precision.choose(options.precision, device)
    per_epoch = _count(batches)
    total = per_epoch * options.epochs
    _seed(seed)
    module.to(device).train()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(module, options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(total, options.warmup))
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    progress.stage(f"{title}, {options.epochs} epochs in {kind}", total)
    means: list[float] = []
    first: float | None = None
    for epoch in range(options.epochs):
        values: list[float] = []
        for inputs, targets in batches():
            inputs, targets = precision.place(inputs, device), precision.move(targets, device)
            try:
                with precision.autocast(kind, device):
                    outputs = module(*inputs)
                value = loss(_float(outputs), targets)
                optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                if options.clip:
                    torch.nn.utils.clip_grad_norm_(trained, options.clip)
                optimizer.step()
                schedule.step()
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                raise StepError(
                    f"a training step fails: {first_line(error)}",
                    hint="check what training() yields; a last batch of one row is one too small "
                    "for batch normalization",
                ) from error
            values.append(float(value.detach()))
            first = values[-1] if first is None else first
            if not math.isfinite(values[-1]) or values[-1] > BLOWN_UP * (abs(first) + 1):
                raise StepError(
                    f"training diverged: the loss is {values[-1]:.3g} at step {len(values)} of "
                    f"epoch {epoch + 1}.",
                    hint=f"lower learning_rate in TRAINING; it is {options.peak:g}",
                )
            progress.advance(note=f"loss {values[-1]:.3f}")
        means.append(sum(values) / max(len(values), 1))
    module.to("cpu").eval()
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return History(tuple(means), total, time.monotonic() - began, kind)


def _count(batches: Callable[[], Iterable[Batch]]) -> int:
    """The steps of one epoch: the schedule must know where it ends."""
    once = batches()
    count = len(once) if isinstance(once, Sized) else sum(1 for _ in once)
    if not count:
        raise StepError("training() yields no batches.", hint="it yields (inputs, targets)")
    return count


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _optimizer(module: torch.nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    import torch

    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise MlserveError("the network has no parameter to train.")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        # Biases and norms: decay would only move what normalization undoes.
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.peak)
    return torch.optim.SGD(
        groups, lr=options.peak, momentum=options.momentum, nesterov=options.momentum > 0
    )


def _schedule(total: int, warmup: float) -> Callable[[int], float]:
    """Linear warm-up, then half a cosine down to nothing (Loshchilov and Hutter, 2017)."""
    rise = max(1, round(total * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))

    return factor


def _float(outputs: Any) -> Any:
    """Outputs in float32: a loss loses too much in bf16. Classes of the user's stay as they are."""
    import torch

    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if type(outputs) is dict:
        return {name: _float(value) for name, value in outputs.items()}
    if type(outputs) in (tuple, list):
        return type(outputs)(_float(value) for value in outputs)
    return outputs
