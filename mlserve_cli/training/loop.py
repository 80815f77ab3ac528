"""The training loop: SGD or AdamW, warm-up and cosine, clipping, bf16 where it pays.

What it speaks of stands in files of its own: `schedule`, `loader`, `ema`, `early_stopping`,
`divergence`, `validation`, `checkpoint`; `state` holds all that a step changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import msgspec

from mlserve_cli import __version__
from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Progress
from mlserve_cli.training import checkpoint, interruption, precision, randomness, schedule
from mlserve_cli.training.checkpoint import NOWHERE, Keeper
from mlserve_cli.training.curve import History
from mlserve_cli.training.divergence import Diverged
from mlserve_cli.training.examination import Examination
from mlserve_cli.training.inputs import Batch
from mlserve_cli.training.loader import Loader
from mlserve_cli.training.options import TrainingOptions
from mlserve_cli.training.rehearsal import Rehearsal, in_float32, number, translated
from mlserve_cli.training.state import State
from mlserve_cli.training.validation import Validation

if TYPE_CHECKING:
    import torch

__all__ = ["History", "Loss", "Teach", "train"]

Loss = Callable[[Any, Any], "torch.Tensor"]
"""(outputs, targets) → one number, differentiable."""

Teach = Callable[[tuple["torch.Tensor", ...], Any], Any]
"""(inputs, targets), both on the device → what the loss takes as targets: a teacher's answers."""


def train(
    module: torch.nn.Module,
    batches: Callable[[], Iterable[Batch]],
    *,
    options: TrainingOptions,
    loss: Loss,
    seed: int,
    progress: Progress,
    title: str = "training",
    validation: Validation | None = None,
    keeper: Keeper = NOWHERE,
    teach: Teach | None = None,
) -> History:
    """Train `module` in place; it ends on the CPU, in eval mode.

    `batches` gives one epoch a call, and is called on a thread of its own, with random states
    that follow from the seed and the epoch: the same seed gives the same weights on the same CPU,
    also where the training was killed and resumed from `keeper`. A loss that diverges ends it
    with the best weights so far, which `History.diverged` says. Raises `StepError` when there is
    nothing to train on, a step fails, or the loss diverges in the first epoch.
    """
    import torch

    began = time.monotonic()
    device = precision.device()
    kind = precision.choose(options.precision, device, module)
    saved = keeper.read(_identity(module, options, seed, kind)) if keeper.path else None
    if saved and (ended := checkpoint.finished(saved, module)):
        progress.say(f"{title} had ended before: its weights are taken from '{keeper.path}'")
        return ended
    randomness.seed(seed, cuda=device == "cuda")
    module.to(device).train()
    precision.arrange(module)
    loader = Loader(batches, seed=seed, device=device, say=progress.say)
    if saved:
        per_epoch = int(saved.facts["per_epoch"])
    else:
        seen = Examination()
        per_epoch = loader.count(seen.see)
        dry = Rehearsal(module=module, loss=loss, teach=teach, device=device, kind=kind)
        seen.judge(dry.scores, dry.value)
    state = State(
        module,
        options,
        device=device,
        per_epoch=per_epoch,
        higher_is_better=validation is not None and validation.metric.higher_is_better,
    )
    state.first = loader.first
    progress.stage(
        f"{title}, {options.epochs} epoch{'s' * (options.epochs != 1)} in {kind}", state.total
    )
    if saved:
        began -= saved.facts["seconds"]
        state.restore(saved)
        progress.say(f"{title} goes on after step {state.steps:,} of {state.total:,}")
        progress.advance(state.steps)
    diverged = False
    with interruption.Deferred() as interrupt:
        try:
            while state.epoch < options.epochs and not state.stopped:
                with loader.epoch(state.epoch, skip=state.step, expected=state.first) as epoch:
                    for batch in epoch:
                        state.first = loader.first
                        with translated():
                            value = _step(state, batch, loss, teach, loader.turn, kind)
                        state.stepped(value)
                        progress.advance(note=state.losses.note)
                        if interrupt.asked or keeper.due(state.steps):
                            with loader.turn:
                                seconds = time.monotonic() - began
                                kept = keeper.write(state, progress, seconds=seconds)
                            if interrupt.asked and kept:
                                progress.say(f"--resume goes on after step {state.steps:,}")
                            interrupt.deliver()
                mean = state.losses.mean()
                measured = _measured(state, validation, kind)
                state.end_epoch(mean, measured)
        except Diverged as error:
            diverged = True
            state.stopped = _diverged(state, error)
        if state.stopped:
            progress.say(state.stopped)
        kept_epoch = state.choose_weights(best=diverged or options.patience is not None)
        module.to("cpu").eval()
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        history = History(
            epochs=tuple(state.curve),
            steps=state.steps,
            seconds=time.monotonic() - began,
            precision=kind,
            seed=seed,
            kept=kept_epoch,
            stopped=state.stopped,
            diverged=diverged,
            metric=validation.metric if validation else None,
            resumed=state.resumed,
            title=title,
        )
        keeper.finish(module, history, progress)
    return history


def _step(
    state: State,
    batch: Batch,
    loss: Loss,
    teach: Teach | None,
    turn: AbstractContextManager[Any],
    kind: str,
) -> torch.Tensor:
    """Forwards, backwards, clip, update; the loss is returned."""
    import torch

    inputs = precision.place(batch[0], state.device)
    targets = precision.move(batch[1], state.device)
    if teach:
        targets = teach(inputs, targets)
    with turn:  # dropout draws here, and a loss may
        with precision.autocast(kind, state.device):
            outputs = state.module(*inputs)
        value = number(loss(in_float32(outputs), targets))
    schedule.set_rate(state.optimizer, state.rate)
    state.optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    if state.options.clip:
        torch.nn.utils.clip_grad_norm_(state.trained, state.options.clip)
    state.optimizer.step()
    return value


def _measured(state: State, validation: Validation | None, kind: str) -> float | None:
    """The validation metric of the weights that training would end with now."""
    if validation is None:
        return None
    with state.best_guess():
        return validation.measure(state.module, device=state.device, kind=kind)


def _diverged(state: State, error: Diverged) -> str:
    """Why it ended. Raises `StepError` where no epoch was finished."""
    where = f"training diverged: {error.message} of epoch {state.epoch + 1}"
    if state.best.weights is None:
        raise StepError(
            f"{where}.",
            hint="lower learning_rate in TRAINING, or --learning-rate of train, distill "
            f"and quantize; it is {state.options.peak:g}",
        ) from error
    return f"{where}; the weights of epoch {state.best.epoch} are kept"


def _identity(
    module: torch.nn.Module, options: TrainingOptions, seed: int, kind: str
) -> dict[str, Any]:
    """What a checkpoint must agree with, so that going on from it is the same training."""
    import torch

    return {
        "mlserve": __version__,
        "torch": str(torch.__version__),
        **msgspec.to_builtins(options),
        "seed": seed,
        "precision": kind,
        "first weights": checkpoint.weights_digest(module),
    }
