"""`mlserve distill`: a smaller model learns from what a package, or another teacher, answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.distill import guides, rows, students, teacher
from mlserve_cli.distill.estimator import Lesson, Save, distill_estimator
from mlserve_cli.distill.students import Student
from mlserve_cli.errors import StepError, needs_extra
from mlserve_cli.graph import successor
from mlserve_cli.package import contents
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import ClassesOutput
from mlserve_cli.training import size, soft, source, validation
from mlserve_cli.training.checkpoint import NO_CHECKPOINTS, Checkpoints
from mlserve_cli.training.inputs import Batch, tensors
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import main_output, task_loss
from mlserve_cli.training.options import TrainingOptions
from mlserve_cli.training.soft import Answer, Comparison
from mlserve_cli.training.source import Trainable
from mlserve_cli.training.variant import prefixed

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "onnx", "onnxscript")

COMPARISONS = ("classes", "values", "directions")

GENTLE: Mapping[str, Any] = {"optimizer": "adamw", "learning_rate": 1e-4}
"""For a transformer that keeps its weights and whose definition has no TRAINING: what fine-tuning
encoders is usually done with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillStep:
    """Trains a student on the teacher's answers, and on the targets where there are some.

    temperature: the logits of both are divided by it; higher shows more of what the teacher holds
    for likely beside the best class.
    alpha: weight of the teacher's answers, the rest is the targets'; None takes 0.9, and 1 where
    rows come without targets.
    compare: "classes", "values" or "directions"; None takes what the model is.
    teacher: a package's folder, `file.py[:function]` or a torch module; None takes the parent.
    student: another package whose network learns; None takes student() of the definition.
    layers: how many layers of the teacher stay, or which ones, in place of a student.
    hints: "auto" or `TEACHER_LAYER=STUDENT_LAYER,…`: layers that learn from layers.
    attention: weight of the attention transfer; 0 for none.
    train_data, target: a data file to learn from in place of training(), and its targets' name.
    epochs, learning_rate: by default those of TRAINING.
    augment: of an estimator, rows that are made up for each real one.
    save: writes an estimator as ONNX; the command line brings it.
    checkpoints: where an interrupted training can go on.
    """

    temperature: float = 4.0
    alpha: float | None = None
    compare: Comparison | None = None
    teacher: Any = None
    student: Path | None = None
    layers: int | tuple[int, ...] | None = None
    hints: str | None = None
    hints_weight: float = 1.0
    attention: float = 0.0
    train_data: str | None = None
    target: str | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    augment: int = 0
    seed: int = 0
    save: Save | None = None
    checkpoints: Checkpoints = NO_CHECKPOINTS
    name: str = "distill"

    def requires(self, parent: Package) -> None:
        """Refuse parameters out of range, and a package without a teacher, student or rows."""
        self._check_numbers()
        if self.student is not None and self.layers is not None:
            raise StepError(
                "a student package and the teacher's layers were both named.",
                hint="--student PKG, or --keep-layers N",
            )
        wanted = () if self.train_data is not None else ("training",)
        if self.student is not None:
            source.require_module(Package.open(Path(self.student)), *wanted)
        elif self.layers is not None:
            source.require_module(parent, *wanted)
        elif self._classical(parent):
            source.require_functions(parent, "student")
        else:
            source.require_module(parent, *wanted, "student")

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Train the student, and write it with what further training needs."""
        if not self._classical(parent):
            return self._into_module(parent, draft, progress)
        definition = Definition.load(parent.source / source.DEFINITION)
        if hasattr(definition.function("student")(), "state_dict"):
            return self._into_module(parent, draft, progress)
        if self.save is None:
            raise StepError("an estimator is distilled by 'mlserve distill', which can write it.")
        return distill_estimator(
            parent,
            draft,
            progress,
            teacher=Package.open(Path(self.teacher)) if self.teacher else parent,
            lesson=Lesson(
                alpha=self.alpha,
                train_data=self.train_data,
                target=self.target,
                augment=self.augment,
                seed=self.seed,
            ),
            save=self.save,
        )

    def _into_module(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        with needs_extra("torch", "distill"):
            import torch
        progress.stage("comparing teacher and student")
        before = None if self._classical(parent) else source.load(parent)
        names = _names(parent, before)
        example = tensors(golden.read(parent.serve).inputs, names, what="the golden rows")
        torch.manual_seed(self.seed)  # the student's first weights
        student = self._student(parent, before, example)
        options = self._options(student)
        student.module.eval()
        facts = _sizes(before, student.module, example)
        _check_smaller(facts)
        progress.say(_sentence(facts))
        plan = self._plan(before, student.module, example)
        if before is not None:
            with torch.no_grad():
                soft.check_shapes(
                    main_output(before.module(*example)), main_output(student.module(*example))
                )
        if plan:
            progress.say(plan.sentence())
        batches: Callable[[], Iterable[Batch]]
        if self.train_data is None:
            batches = rows.of_definition(student.definition, names)
            whence = "training()"
        else:
            batches = rows.of_data(
                parent, self.train_data, target=self.target, batch=options.batch_size
            )
            whence = f"'{self.train_data}'"
        kind = options.precision
        asked_for = self._asked_for()
        alpha = rows.check(batches, self.alpha, whence=whence)
        batches, held_out = validation.choose(
            student.definition,
            names,
            options,
            batches=batches,
            outputs=[spec.name for spec in parent.manifest.outputs],
        )
        task = task_loss(student.definition, options)
        loss = soft.soft_loss(
            task,
            temperature=self.temperature,
            alpha=alpha,
            comparison=self.compare or _comparison(parent.manifest, alpha),
        )
        with ExitStack() as held:
            module = student.module
            asked: Answer | None = None
            if not alpha and not plan:  # the targets alone: nobody need be asked
                loss = task
            elif before is None or self.teacher is not None:
                found = teacher.of(self.teacher or parent.path, names, progress, kind=kind)
                held.enter_context(closing(found))
                asked = teacher.as_answer(found, names)
                with torch.no_grad():
                    soft.check_shapes(asked(example), main_output(student.module(*example)))
                batches = partial(rows.Epoch, batches, found.begin_epoch)
            else:
                asked = soft.asked(before.module, kind=kind)
                if plan:
                    guided = guides.Guided(plan, before.module, module, example, names)
                    held.enter_context(guided)
                    module, loss = guided.module, guided.loss(loss)
                    asked = guided.answer(asked)
            history = train(
                module,
                batches,
                options=options,
                loss=loss,
                seed=self.seed,
                progress=progress,
                title="distilling",
                validation=held_out,
                keeper=self.checkpoints.stage("distill", **self._about(parent, alpha), **asked_for),
                teach=None if asked is None else soft.lesson(asked),
            )
        progress.stage("writing the student")
        successor.write(student.module, parent, draft.serve / parent.manifest.model)
        source.write(
            draft.source,
            student.definition,
            student.module,
            entry=student.entry,
            history=student.history,
        )
        return Change(
            variant=prefixed("distilled", parent.manifest.variant),
            parameters={
                "temperature": self.temperature,
                "alpha": alpha,
                "epochs": options.epochs,
                "learning_rate": options.peak,
                **asked_for,
                **student.facts,
                **facts,
                **history.lineage(),
            },
            seed=self.seed,
            libraries=LIBRARIES,
            evidence=(history.facts(),),
        )

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """The student is smaller than its teacher, and ONNX answers as its source does."""
        if self._classical(parent):
            _check_file_smaller(parent, manifest)
        if not (draft.source / source.SOURCE_JSON).is_file():
            return  # an estimator, which was compared when it was written
        _check_smaller(manifest.lineage[-1].parameters)
        rebuilt = source.load(Package(draft.path, manifest)).module
        successor.check(rebuilt, parent, draft, manifest)

    def _check_numbers(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise StepError(
                f"the temperature is {self.temperature:g}; it must be a number above 0.",
                hint="2 to 8 are usual",
            )
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise StepError(
                f"alpha is {self.alpha:g}; it must lie between 0 and 1.",
                hint="0 learns from the targets alone, 1 from the teacher alone",
            )
        for word, value in (("hints", self.hints_weight), ("attention", self.attention)):
            if not 0 <= value < float("inf"):
                raise StepError(
                    f"the weight of {word} is {value:g}; it must be a number that is not negative."
                )
        if self.compare is not None and self.compare not in COMPARISONS:
            raise StepError(
                f"'{self.compare}' is no way to compare answers.",
                hint=f"it can be {', '.join(COMPARISONS)}",
            )
        if self.augment < 0:
            raise StepError(f"{self.augment} rows cannot be made up for each real one.")

    def _classical(self, parent: Package) -> bool:
        """Whether the package comes from a definition whose model is no torch module."""
        return (
            self.student is None
            and self.layers is None
            and (parent.source / source.DEFINITION).is_file()
            and not (parent.source / source.SOURCE_JSON).is_file()
        )

    def _student(
        self, parent: Package, before: Trainable | None, example: tuple[torch.Tensor, ...]
    ) -> Student:
        names = _names(parent, before)
        if self.student is not None:
            return students.of_package(Package.open(Path(self.student)), names)
        if before is None:
            return students.of_definition(Definition.load(parent.source / source.DEFINITION), names)
        if self.layers is not None:
            return students.with_layers(before, example, keep=self.layers)
        return students.of_definition(before.definition, names)

    def _plan(
        self,
        before: Trainable | None,
        student: torch.nn.Module,
        example: tuple[torch.Tensor, ...],
    ) -> guides.Plan:
        if self.hints is None and not self.attention:
            return guides.Plan()
        if before is None or self.teacher is not None:
            raise StepError(
                "hints and attention need the layers of the teacher, and an engine shows none.",
                hint="leave --teacher out: the network of a package from PyTorch teaches then",
            )
        return guides.plan(
            before.module,
            student,
            tuple(tensor[:2] for tensor in example),
            hints=self.hints,
            hints_weight=self.hints_weight,
            attention=self.attention,
        )

    def _options(self, student: Student) -> TrainingOptions:
        gentle: Mapping[str, Any] = {}
        if self.layers is not None and not student.definition.has("TRAINING"):
            gentle = GENTLE
        given = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        return TrainingOptions.of(
            student.definition,
            **{**gentle, **{name: value for name, value in given.items() if value is not None}},
        )

    def _about(self, parent: Package, alpha: float) -> dict[str, Any]:
        """What a checkpoint must agree with beside the weights and the options."""
        return {
            "parent": parent.manifest.digest,
            "temperature": self.temperature,
            "alpha": alpha,
        }

    def _asked_for(self) -> dict[str, Any]:
        """What else was asked for, for the lineage."""
        found: dict[str, Any] = {}
        if isinstance(self.teacher, (str, Path)) and Path(self.teacher).is_dir():
            found["teacher"] = contents.digest(str(self.teacher))
        elif self.teacher is not None:
            found |= contents.facts("teacher", self.teacher)
        if self.compare is not None:
            found["compare"] = self.compare
        if self.hints is not None:
            found |= {"hints": self.hints, "hints_weight": self.hints_weight}
        if self.attention:
            found["attention"] = self.attention
        if self.train_data is not None:
            found |= contents.facts("train_data", self.train_data)
        return found


def _comparison(manifest: Manifest, alpha: float) -> Comparison | None:
    """What the answers are, where no targets need say so: scores of classes, or numbers."""
    if alpha < 1:
        return None
    if isinstance(manifest.processing.output, ClassesOutput) or manifest.labels:
        return "classes"
    return None


def _names(parent: Package, before: Trainable | None) -> tuple[str, ...]:
    if before is not None:
        return before.input_names
    return tuple(spec.name for spec in parent.manifest.inputs)


def _sizes(
    before: Trainable | None, student: torch.nn.Module, example: tuple[torch.Tensor, ...]
) -> dict[str, int]:
    """Of the student, and of its parent where that is a torch module."""
    now = size.measure(student, example)
    facts = {"macs": now.macs, "parameters": now.parameters}
    if before is None:
        return facts
    was = size.measure(before.module, example)
    return {"macs_before": was.macs, "parameters_before": was.parameters, **facts}


def _sentence(facts: Mapping[str, Any]) -> str:
    said = f"student {facts['macs']:,} multiplications a row, {facts['parameters']:,} parameters"
    if "macs_before" not in facts:
        return said
    return f"{said}; teacher {facts['macs_before']:,} and {facts['parameters_before']:,}"


def _check_smaller(facts: Mapping[str, Any]) -> None:
    for what, word in (("macs", "multiplications"), ("parameters", "parameters")):
        if f"{what}_before" in facts and not facts[what] < facts[f"{what}_before"]:
            raise StepError(
                f"the student has {facts[what]:,} {word}, and its teacher "
                f"{facts[f'{what}_before']:,}: it must have fewer.",
                hint="make student() smaller",
            )


def _check_file_smaller(parent: Package, manifest: Manifest) -> None:
    if not manifest.weight_bytes < parent.manifest.weight_bytes:
        raise StepError(
            f"the student takes {manifest.weight_bytes:,} bytes, and its teacher "
            f"{parent.manifest.weight_bytes:,}: it must take fewer.",
            hint="make student() smaller: fewer or shallower trees",
        )
