"""`mlserve prune --sensitivity`: what each layer of a package loses when it is pruned alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import needs_extra
from mlserve_cli.evaluate import evaluation
from mlserve_cli.evaluate.cases import Case, from_definition
from mlserve_cli.graph import from_torch
from mlserve_cli.package.definition import Definition, Metric
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.prune import importance, sensitivity, step
from mlserve_cli.prune.network import Survey
from mlserve_cli.prune.sensitivity import Unit
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.tensors import Tensors, TensorSpec, rows
from mlserve_cli.training import source
from mlserve_cli.training.inputs import batches, tensors
from mlserve_cli.training.losses import task_loss
from mlserve_cli.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch

LIMIT_ROWS = 512
"""Rows of evaluation() that each pruned layer is judged by: each costs a run of the network."""


@dataclass(frozen=True, slots=True)
class Report:
    """metric, whole, n: the metric, its value before, and of how many rows; None without any.

    left: layers that cannot be pruned, with the reason. compared: rows, of calibration() or the
    golden ones, on which answers were compared.
    """

    package: Package
    units: list[Unit]
    left: dict[str, str]
    metric: Metric | None
    whole: float | None
    n: int
    compared: int

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "package": str(self.package.path),
            "digest": self.package.manifest.digest,
            "metric": None if self.metric is None else self.metric.name,
            "unit": None if self.metric is None else self.metric.unit,
            "value": self.whole,
            "n": self.n,
            "compared_rows": self.compared,
            "layers": [unit.facts() for unit in self.units],
            "left": self.left,
        }


def measure(package: Package, *, ranked_by: str, progress: Progress) -> Report:
    """Prune every layer of a package alone, at a few ratios, and judge what is left.

    With evaluation() of the definition the metric is measured on its first rows; in any case how
    far the answers move, on rows of calibration() or the golden rows. Raises `StepError`.
    """
    needed = ("training",) if ranked_by == "taylor" else ()
    source.require_module(package, *needed)
    with needs_extra("torch", "prune"):
        import torch_pruning  # noqa: F401
    progress.stage("tracing the network")
    loaded = source.load(package)
    definition, names = loaded.definition, loaded.input_names
    example = tensors(golden.read(package.serve).inputs, names, what="the golden rows")
    options = TrainingOptions.of(definition)
    survey = Survey.of(
        loaded.module,
        tuple(tensor[:2] for tensor in example),
        importance=ranked_by,
        gradients=importance.gradients(batches(definition, names), task_loss(definition, options))
        if ranked_by == "taylor"
        else None,
    )
    judge = _judge(package, definition, names) if definition.has("evaluation") else None
    before = None if judge is None else judge(loaded.module)
    shown = step.rows_of(definition, names, example)
    units = sensitivity.measure(
        survey,
        shown,
        judge=None if judge is None else lambda module: judge(module).value,
        progress=progress,
    )
    return Report(
        package=package,
        units=units,
        left=dict(survey.left),
        metric=None if before is None else before.metric,
        whole=None if before is None else before.value,
        n=0 if before is None else before.n,
        compared=sum(len(batch[0]) for batch in shown),
    )


def _judge(
    package: Package, definition: Definition, names: tuple[str, ...]
) -> Callable[[torch.nn.Module], evaluation.Evaluation]:
    """A network → its metric on the first rows of evaluation(), which are read once."""
    cases = list(_first(from_definition(definition, names)))

    def judge(module: torch.nn.Module) -> evaluation.Evaluation:
        return evaluation.evaluate(
            package,
            cases,
            definition.metric,
            evaluation.metric_of(definition),
            engine=_Module(module, package),
        )

    return judge


def _first(cases: Iterator[Case]) -> Iterator[Case]:
    count = 0
    for inputs, targets in cases:
        yield inputs, targets
        count += rows(inputs)
        if count >= LIMIT_ROWS:
            return


class _Module:
    """A torch module where an engine is asked for."""

    def __init__(self, module: torch.nn.Module, package: Package) -> None:
        self._module = module
        self.inputs: tuple[TensorSpec, ...] = package.manifest.inputs
        self.outputs: tuple[TensorSpec, ...] = package.manifest.outputs

    def run(self, tensors: Tensors) -> Tensors:
        """Every input by name → every output, by the names of the manifest."""
        found = from_torch.run(self._module, tensors)
        return dict(zip((spec.name for spec in self.outputs), found.values(), strict=True))

    def close(self) -> None:
        """Nothing is held."""
