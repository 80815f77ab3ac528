"""`mlserve distill`: a smaller model learns from what a package, or another teacher, answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.distill import guides, rows, students, teacher
from mlserve_cli.distill.estimator import Lesson, Save, distill_estimator
from mlserve_cli.distill.students import Student
from mlserve_cli.errors import StepError, needs_extra
from mlserve_cli.graph import successor
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import ClassesOutput
from mlserve_cli.training import precision, size, soft, source
from mlserve_cli.training.inputs import tensors
from mlserve_cli.training.loop import Loss, train
from mlserve_cli.training.losses import main_output, task_loss
from mlserve_cli.training.options import TrainingOptions
from mlserve_cli.training.soft import Comparison, Lessons
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
        if self._classical(parent):
            if self.save is None:
                raise StepError(
                    "an estimator is distilled by 'mlserve distill', which can write it."
                )
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
        with needs_extra("torch", "distill"):
            import torch
        progress.stage("comparing teacher and student")
        before = source.load(parent)
        names = before.input_names
        example = tensors(golden.read(parent.serve).inputs, names, what="the golden rows")
        torch.manual_seed(self.seed)  # the student's first weights
        student = self._student(before, example)
        options = self._options(student)
        plan = guides.plan(
            before.module,
            student.module,
            tuple(tensor[:2] for tensor in example),
            hints=self.hints,
            hints_weight=self.hints_weight,
            attention=self.attention,
        )
        if plan and self.teacher is not None:
            raise StepError(
                "hints and attention need the layers of the teacher, and an engine shows none.",
                hint="leave --teacher out: the package's own network teaches then",
            )
        with torch.no_grad():
            soft.check_shapes(
                main_output(before.module(*example)), main_output(student.module.eval()(*example))
            )
        facts = _sizes(before.module, student.module, example)
        _check_smaller(facts)
        progress.say(
            f"teacher {facts['macs_before']:,} multiplications a row, "
            f"{facts['parameters_before']:,} parameters; "
            f"student {facts['macs']:,} and {facts['parameters']:,}"
        )
        if plan:
            progress.say(plan.sentence())
        if self.train_data is None:
            batches = rows.of_definition(student.definition, names)
            whence = "training()"
        else:
            batches = rows.of_data(
                parent, self.train_data, target=self.target, batch=options.batch_size
            )
            whence = f"'{self.train_data}'"
        alpha = rows.check(batches, self.alpha, whence=whence)
        task = task_loss(student.definition, options)
        loss = soft.soft_loss(
            task,
            temperature=self.temperature,
            alpha=alpha,
            comparison=self.compare or _comparison(parent.manifest, alpha),
        )
        if not alpha and not plan:  # the targets alone: nobody need be asked
            self._train(student.module, batches, task, options, progress)
        elif self.teacher is not None:
            self._learn(student.module, before, example, batches, loss, options, progress)
        elif plan:
            self._learn_inside(
                student.module, before, example, plan, batches, loss, options, progress
            )
        else:
            asked = soft.asked(before.module, kind=_kind(options))
            self._train(student.module, lambda: Lessons(batches, asked), loss, options, progress)
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
                **self._asked_for(),
                **student.facts,
                **facts,
            },
            seed=self.seed,
            libraries=LIBRARIES,
        )

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """The student is smaller than its teacher, and ONNX answers as its source does."""
        if self._classical(parent):
            _check_file_smaller(parent, manifest)
            return
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

    def _student(self, before: Trainable, example: tuple[torch.Tensor, ...]) -> Student:
        if self.student is not None:
            return students.of_package(Package.open(Path(self.student)), before.input_names)
        if self.layers is not None:
            return students.with_layers(before, example, keep=self.layers)
        return students.of_definition(before.definition, before.input_names)

    def _options(self, student: Student) -> TrainingOptions:
        gentle: Mapping[str, Any] = {}
        if self.layers is not None and not student.definition.has("TRAINING"):
            gentle = GENTLE
        given = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        return TrainingOptions.of(
            student.definition,
            **{**gentle, **{name: value for name, value in given.items() if value is not None}},
        )

    def _learn(
        self,
        student: torch.nn.Module,
        before: Trainable,
        example: tuple[torch.Tensor, ...],
        batches: Any,
        loss: Loss,
        options: TrainingOptions,
        progress: Progress,
    ) -> None:
        """From a teacher that was named."""
        import torch

        names = before.input_names
        found = teacher.of(self.teacher, names, progress, kind=_kind(options))
        asked = teacher.as_answer(found, names)
        begin = getattr(found, "begin_epoch", None)
        try:
            with torch.no_grad():
                soft.check_shapes(asked(example), main_output(student(*example)))
            self._train(student, lambda: Lessons(batches, asked, begin), loss, options, progress)
        finally:
            found.close()

    def _learn_inside(
        self,
        student: torch.nn.Module,
        before: Trainable,
        example: tuple[torch.Tensor, ...],
        plan: guides.Plan,
        batches: Any,
        loss: Loss,
        options: TrainingOptions,
        progress: Progress,
    ) -> None:
        """From the parent's answers and its layers."""
        names = before.input_names
        with guides.Guided(plan, before.module, student, example, names) as guided:
            asked = guided.answer(soft.asked(before.module, kind=_kind(options)))
            self._train(
                guided.module,
                lambda: Lessons(batches, asked),
                guided.loss(loss),
                options,
                progress,
            )

    def _train(
        self,
        module: torch.nn.Module,
        lessons: Any,
        loss: Loss,
        options: TrainingOptions,
        progress: Progress,
    ) -> None:
        train(
            module,
            lessons,
            options=options,
            loss=loss,
            seed=self.seed,
            progress=progress,
            title="distilling",
        )

    def _asked_for(self) -> dict[str, Any]:
        """What else was asked for, for the lineage."""
        found: dict[str, Any] = {}
        if self.teacher is not None:
            path = Path(str(self.teacher))
            found["teacher"] = (
                Package.open(path).manifest.digest if path.is_dir() else _title(self.teacher)
            )
        if self.compare is not None:
            found["compare"] = self.compare
        if self.hints is not None:
            found |= {"hints": self.hints, "hints_weight": self.hints_weight}
        if self.attention:
            found["attention"] = self.attention
        if self.train_data is not None:
            found["train_data"] = self.train_data
        return found


def _comparison(manifest: Manifest, alpha: float) -> Comparison | None:
    """What the answers are, where no targets need say so: scores of classes, or numbers."""
    if alpha < 1:
        return None
    if isinstance(manifest.processing.output, ClassesOutput) or manifest.labels:
        return "classes"
    return None


def _kind(options: TrainingOptions) -> str:
    return precision.choose(options.precision, precision.device())


def _title(given: Any) -> str:
    return given if isinstance(given, str) else type(given).__name__


def _sizes(
    before: torch.nn.Module, student: torch.nn.Module, example: tuple[torch.Tensor, ...]
) -> dict[str, int]:
    was, now = size.measure(before, example), size.measure(student, example)
    return {
        "macs_before": was.macs,
        "macs": now.macs,
        "parameters_before": was.parameters,
        "parameters": now.parameters,
    }


def _check_smaller(facts: Mapping[str, Any]) -> None:
    for what, word in (("macs", "multiplications"), ("parameters", "parameters")):
        if not facts[what] < facts[f"{what}_before"]:
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
