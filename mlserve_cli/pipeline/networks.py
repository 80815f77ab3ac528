"""Which smaller networks could be trained of a package, and how long that takes: some steps timed.

Pruned networks keep a share of the multiplications and learn from the whole one's answers;
student() of the definition is distilled, and may be pruned once more.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mlserve_cli.errors import MlserveError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress, Silent
from mlserve_cli.search.candidate import StepChoice
from mlserve_cli.search.networks import Network, Training

if TYPE_CHECKING:
    import torch

    from mlserve_cli.training.inputs import Batch
    from mlserve_cli.training.loop import Loss
    from mlserve_cli.training.options import TrainingOptions
    from mlserve_cli.training.soft import Answer

SHARES = (0.5, 0.25, 0.125)
"""Of the multiplications that a pruned network keeps: each is about twice as fast as the last."""

TIMED_STEPS = 4
"""Of training, after one to warm up: enough to know the time of an epoch to a fifth."""


def training_of(parent: Package, seconds: float, progress: Progress) -> Training:
    """What may be trained of `parent` in `seconds`; an obstacle says why nothing can be.

    Nothing is changed: copies of the network make the few steps that are timed.
    """
    from mlserve_cli.training import source

    progress.stage("timing some steps of training")
    try:
        source.require_module(parent, "training")
        found = tuple(_networks(parent))
    except MlserveError as error:
        return Training(seconds=seconds, obstacle=f"nothing was trained: {error.message}")
    except ImportError as error:
        return Training(seconds=seconds, obstacle=f"nothing was trained: {error}")
    return Training(seconds=seconds, networks=found)


def _networks(parent: Package) -> Iterable[Network]:
    import torch

    from mlserve_cli.runtime import golden
    from mlserve_cli.training import inputs, size, soft, source
    from mlserve_cli.training.losses import task_loss
    from mlserve_cli.training.options import TrainingOptions

    before = source.load(parent)
    definition, names = before.definition, before.input_names
    options = TrainingOptions.of(definition)
    rows = inputs.tensors(golden.read(parent.serve).inputs, names, what="the golden rows")
    batches = inputs.batches(definition, names)
    drawing, steps = _drawn(batches)
    loss = soft.soft_loss(task_loss(definition, options), temperature=4.0, alpha=0.9)
    asked = soft.asked(copy.deepcopy(before.module), kind=options.precision)
    whole = size.measure(before.module, rows)

    def epoch(module: torch.nn.Module) -> float:
        return steps * _step_seconds(module, batches, options, loss, asked) + drawing

    # As mlserve prune does: half the epochs, and the network learns from its parent.
    pruning = -(-options.epochs // 2) * epoch(copy.deepcopy(before.module))
    for share in SHARES:
        yield Network(
            name=f"pruned-{share * 100:g}",
            kind="pruned",
            steps=(StepChoice(step="prune", parameters={"macs": share}),),
            macs=share,
            seconds=pruning,
            why=f"pruned to {share:.1%} of the multiplications, fine-tuned on the float answers",
        )
    if not definition.has("student"):
        return
    torch.manual_seed(0)
    student = definition.function("student")()
    if not isinstance(student, torch.nn.Module):
        return
    share = size.measure(student, rows).macs / max(whole.macs, 1)
    if share >= 1:
        return
    each = epoch(student)
    distill = StepChoice(step="distill")
    yield Network(
        name="student",
        kind="student",
        steps=(distill,),
        macs=share,
        seconds=options.epochs * each,
        why=f"student(), {share:.1%} of the multiplications, distilled from the float model",
    )
    yield Network(
        name="student-pruned",
        kind="student",
        steps=(distill, StepChoice(step="prune", parameters={"macs": 0.5})),
        macs=share / 2,
        seconds=-(-options.epochs // 2) * each,
        after="student",
        why=f"student(), pruned to {share / 2:.1%} of the multiplications",
    )


def _drawn(batches: Callable[[], Iterable[Batch]]) -> tuple[float, int]:
    """Seconds that drawing an epoch takes, and its batches. No random state is changed."""
    from mlserve_cli.training import randomness

    with randomness.apart():
        randomness.seed(0)
        began = time.monotonic()
        steps = sum(1 for _ in batches())
        return time.monotonic() - began, steps


def _step_seconds(
    module: torch.nn.Module,
    batches: Callable[[], Iterable[Batch]],
    options: TrainingOptions,
    loss: Loss,
    asked: Answer,
) -> float:
    """Seconds of a step of the loop itself, with the teacher's answers."""
    import msgspec

    from mlserve_cli.training import randomness, soft
    from mlserve_cli.training.loop import train

    once = msgspec.structs.replace(options, epochs=1, patience=None)
    spent = 0.0
    with randomness.apart():
        for steps in (1, TIMED_STEPS):
            history = train(
                module,
                lambda steps=steps: itertools.islice(batches(), steps),  # type: ignore[misc]
                options=once,
                loss=loss,
                seed=0,
                progress=Silent(),
                teach=soft.lesson(asked),
            )
            spent = history.seconds / history.steps
    return spent
