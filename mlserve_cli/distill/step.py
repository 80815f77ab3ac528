"""`mlserve distill`: student() of the definition learns from the package's network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlserve_cli.errors import DefinitionError, StepError, needs_extra
from mlserve_cli.graph import successor
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.training import precision, size, soft, source
from mlserve_cli.training.inputs import batches, tensors
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import main_output, task_loss
from mlserve_cli.training.options import TrainingOptions
from mlserve_cli.training.variant import prefixed

LIBRARIES = ("torch", "onnx", "onnxscript")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillStep:
    """Trains student() with training(), on the targets and on the teacher's softened logits.

    temperature: the logits of both are divided by it; higher shows more of what the teacher holds
    for likely beside the best class.
    alpha: weight of the teacher's answers; the rest is the weight of the targets.
    epochs, learning_rate: by default those of TRAINING.
    """

    temperature: float = 4.0
    alpha: float = 0.9
    epochs: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    name: str = "distill"

    def requires(self, parent: Package) -> None:
        """Refuse parameters out of range, and a package without a teacher or a student()."""
        if not 0 < self.temperature < float("inf"):
            raise StepError(
                f"the temperature is {self.temperature:g}; it must be a number above 0.",
                hint="2 to 8 are usual",
            )
        if not 0 <= self.alpha <= 1:
            raise StepError(
                f"alpha is {self.alpha:g}; it must lie between 0 and 1.",
                hint="0 learns from the targets alone, 1 from the teacher alone",
            )
        source.require_module(parent, "training", "student")

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Train the student, and write it with what further training needs."""
        with needs_extra("torch", "distill"):
            import torch
        progress.stage("comparing teacher and student")
        teacher = source.load(parent)
        definition, names = teacher.definition, teacher.input_names
        options = TrainingOptions.of(
            definition, epochs=self.epochs, learning_rate=self.learning_rate
        )
        example = tensors(golden.read(parent.serve).inputs, names, what="the golden rows")
        torch.manual_seed(self.seed)  # the student's first weights
        student = definition.function("student")()
        _check(student, names, definition)
        with torch.no_grad():
            soft.check_shapes(
                main_output(teacher.module(*example)), main_output(student.eval()(*example))
            )
        was, now = size.measure(teacher.module, example), size.measure(student, example)
        facts = {
            "macs_before": was.macs,
            "macs": now.macs,
            "parameters_before": was.parameters,
            "parameters": now.parameters,
        }
        _check_smaller(facts)
        progress.say(
            f"teacher {was.macs:,} multiplications a row, {was.parameters:,} parameters; "
            f"student {now.macs:,} and {now.parameters:,}"
        )
        kind = precision.choose(options.precision, precision.device())
        train(
            student,
            soft.taught(batches(definition, names), teacher.module, kind=kind),
            options=options,
            loss=soft.soft_loss(
                task_loss(definition, options), temperature=self.temperature, alpha=self.alpha
            ),
            seed=self.seed,
            progress=progress,
            title="distilling",
        )
        progress.stage("writing the student")
        successor.write(student, parent, draft.serve / parent.manifest.model)
        source.write(draft.source, definition, student, entry="student", history=[])
        return Change(
            variant=prefixed("distilled", parent.manifest.variant),
            parameters={
                "temperature": self.temperature,
                "alpha": self.alpha,
                "epochs": options.epochs,
                "learning_rate": options.peak,
                **facts,
            },
            seed=self.seed,
            libraries=LIBRARIES,
        )

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """The student is smaller than its teacher, and ONNX answers as the torch module does."""
        _check_smaller(manifest.lineage[-1].parameters)
        rebuilt = source.load(Package(draft.path, manifest)).module
        successor.check(rebuilt, parent, draft, manifest)


def _check(student: Any, names: tuple[str, ...], definition: Definition) -> None:
    """Refuse a student that is no module, or whose inputs have other names than the teacher's."""
    import torch

    if not isinstance(student, torch.nn.Module):
        raise DefinitionError(
            f"student() of '{definition.path}' returns {type(student).__name__}, "
            "not a torch.nn.Module."
        )
    taken = list(inspect.signature(student.forward).parameters)
    if taken[: len(names)] != list(names):
        raise DefinitionError(
            f"the student's forward() takes {', '.join(taken)}, and the teacher's "
            f"{', '.join(names)}.",
            hint="name the student's inputs as the model names its own",
        )


def _check_smaller(facts: Mapping[str, Any]) -> None:
    for what, word in (("macs", "multiplications"), ("parameters", "parameters")):
        if not facts[what] < facts[f"{what}_before"]:
            raise StepError(
                f"the student has {facts[what]:,} {word}, and its teacher "
                f"{facts[f'{what}_before']:,}: it must have fewer.",
                hint="make student() smaller",
            )
