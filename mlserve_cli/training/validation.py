"""The validation metric: how good the network is after each epoch, on rows it does not learn from.

Never on evaluation(): those rows judge the result, and a network that was chosen by them would be
judged too kindly. validation() of the definition yields other rows. Without it, where training()
gives its batches in the same order every time, a share of them is held out; where it shuffles,
what is held out in one epoch would be learned in the next, and there is nothing to validate with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.package.definition import Definition, Metric
from mlserve_cli.training import inputs, precision, randomness
from mlserve_cli.training.inputs import Batch
from mlserve_cli.training.loader import digest
from mlserve_cli.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch

    from mlserve_cli.runtime.tensors import Array

Batches = Callable[[], Iterable[Batch]]

EVERY = 10
"""One batch in so many is held out where there is no validation()."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Rows, and what is measured on them.

    score: (outputs, targets) of all rows → one value a row, or one number. An output is an array,
    several are a dict by name, as metric() of a definition takes them.
    """

    batches: Batches
    metric: Metric
    score: Callable[[Any, Any], Any]
    outputs: Sequence[str] = ()
    source: str = "validation()"

    def measure(self, module: torch.nn.Module, *, device: str, kind: str) -> float:
        """The metric in its unit; the module is in eval mode for as long as this takes."""
        import torch

        found: list[list[Array]] = []
        wanted: list[Any] = []
        training = module.training
        module.eval()
        with randomness.apart(), torch.inference_mode():
            randomness.seed(0)  # the same rows each time, also where they are drawn
            for given, targets in self.batches():
                with precision.autocast(kind, device):
                    outputs = module(*precision.place(given, device))
                found.append([_array(tensor) for tensor in flat(outputs)])
                wanted.append(targets)
        module.train(training)
        if not found:
            raise StepError(f"{self.source} yields no batches.", hint="it yields (inputs, targets)")
        joined = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        names = list(self.outputs) or [str(place) for place in range(len(joined))]
        answer = joined[0] if len(joined) == 1 else dict(zip(names, joined, strict=False))
        values = np.asarray(self.score(answer, _joined(wanted)), dtype=np.float64)
        return float(values.mean()) * self.metric.scale


def choose(
    definition: Definition,
    names: tuple[str, ...],
    options: TrainingOptions,
    *,
    batches: Batches,
    outputs: Sequence[str] = (),
) -> tuple[Batches, Validation | None]:
    """The batches to train on, and what to validate with; None where that needs no rows.

    names, outputs: of the network's inputs and outputs. Raises `StepError` where patience asks
    for rows and there are none.
    """
    if definition.has("validation"):
        return batches, _validation(
            definition, inputs.batches(definition, names, "validation"), outputs, "validation()"
        )
    if options.patience is None:
        return batches, None
    if not _in_order(batches):
        raise StepError(
            "patience asks for a validation metric, and there are no rows for it: training() "
            "gives its batches in another order each epoch, so none of them can be held out.",
            hint="add validation() to the definition; it yields (inputs, targets) of other rows",
        )

    def part(held_out: bool) -> Batches:
        def once() -> Iterator[Batch]:
            for place, batch in enumerate(batches()):
                if (place % EVERY == EVERY - 1) == held_out:
                    yield batch

        return once

    if not any(True for _ in part(held_out=True)()):
        raise StepError(
            f"patience asks for a validation metric, and training() yields fewer than {EVERY} "
            "batches: none can be held out.",
            hint="add validation() to the definition; it yields (inputs, targets) of other rows",
        )
    source = f"one batch in {EVERY} of training()"
    return part(held_out=False), _validation(definition, part(held_out=True), outputs, source)


def _validation(
    definition: Definition, batches: Batches, outputs: Sequence[str], source: str
) -> Validation:
    if definition.has("metric"):
        return Validation(
            batches=batches,
            metric=definition.metric,
            score=definition.function("metric"),
            outputs=outputs,
            source=source,
        )
    first = next(iter(batches()), None)
    targets = None if first is None else first[1]
    if targets is None or not hasattr(targets, "is_floating_point"):
        raise DefinitionError(
            f"{source} gives targets that are no array; no built-in metric fits.",
            hint="write metric(outputs, targets) in the definition",
        )
    if targets.is_floating_point():
        return Validation(
            batches=batches,
            metric=Metric(name="mae", higher_is_better=False, unit=""),
            score=absolute_error,
            outputs=outputs,
            source=source,
        )
    return Validation(
        batches=batches, metric=Metric(), score=accuracy, outputs=outputs, source=source
    )


def accuracy(outputs: Any, targets: Array) -> Array:
    """(rows,) bool: whether the best score of the first output is the target's."""
    found: Array = _first(outputs).argmax(1).reshape(targets.shape) == targets
    return found


def absolute_error(outputs: Any, targets: Array) -> Array:
    """(rows,) float64: the mean absolute error of the first output."""
    error: Array = np.abs(_first(outputs).reshape(targets.shape).astype(np.float64) - targets)
    rows: Array = error.reshape(len(error), -1).mean(1)
    return rows


def flat(outputs: Any) -> list[torch.Tensor]:
    """All tensors that a network answers, in their order."""
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    if isinstance(outputs, (tuple, list)):
        return [tensor for item in outputs for tensor in flat(item)]
    return [] if outputs is None else [outputs]


def _in_order(batches: Batches) -> bool:
    """Whether two epochs with other random states begin with the same two batches."""
    found = []
    with randomness.apart():
        for seed in (1, 2):
            randomness.seed(seed)
            once = iter(batches())
            found.append([digest(batch) for batch, _ in zip(once, range(2), strict=False)])
    return found[0] == found[1]


def _first(outputs: Any) -> Array:
    first: Array = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
    return first


def _array(tensor: torch.Tensor) -> Array:
    array: Array = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    return array


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(_joined(list(items)) for items in zip(*parts, strict=True))
    return np.concatenate([part.numpy() for part in parts])
