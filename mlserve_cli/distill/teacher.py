"""Who answers: a package through its engine, a torch module, or the model of a definition."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlserve_cli.distill import answers as kept_answers
from mlserve_cli.distill.answers import Answers
from mlserve_cli.errors import DefinitionError, StepError, first_line
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.rows import cast
from mlserve_cli.runtime import tensors as checks
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import ClassesOutput, ValuesOutput
from mlserve_cli.runtime.tensors import Array, Tensors, rows

if TYPE_CHECKING:
    import torch

LIMIT_ROWS = 64
"""Rows that an engine gets together; training() may yield its whole set at once."""

TINY = 1e-7
"""A probability below it is as good as none, and its logarithm must stay finite."""


class Teacher(Protocol):
    """What a student learns from."""

    def answer(self, inputs: Tensors) -> Array:
        """(rows, …) float32; logits where it decides between classes."""
        ...

    def begin_epoch(self) -> None:
        """Be told that all rows begin again."""
        ...

    def close(self) -> None:
        """Let go of what it holds; keep what it answered."""
        ...


class PackageTeacher:
    """A package, run by its engine; a row that comes again is not asked again.

    rows_seen, rows_asked: of all that were taught, those that the engine had to run.
    """

    def __init__(
        self,
        package: Package,
        progress: Progress,
        *,
        cache: bool = True,
        probabilities: bool = False,
    ) -> None:
        self._package = package
        self._manifest = package.manifest
        if checks.whole_only(self._manifest.inputs):
            raise StepError(
                f"'{package.path}' cannot teach: the first dimensions of its inputs count "
                "different things, so its rows cannot be told apart."
            )
        self._output = output_of(self._manifest)
        self._probabilities = probabilities
        self._progress = progress
        self._engine = package.engine()
        spec = next(each for each in self._manifest.outputs if each.name == self._output)
        fixed = all(isinstance(size, int) and size > 0 for size in spec.shape[1:])
        # An answer that is as long as its row belongs to the row as it was filled up.
        self._answers = Answers(kept_answers.key_of(self._manifest)) if cache and fixed else None
        self.rows_seen = self.rows_asked = 0
        self._epochs = 0
        self._epoch_began = (0, 0)

    def answer(self, inputs: Tensors) -> Array:
        """(rows, …) float32: the answers kept, and the engine's for rows that are new.

        Probabilities become logits, unless they were asked for. Raises `StepError` where the rows
        do not fit the package.
        """
        given = cast(inputs, self._manifest.inputs)
        checks.check(self._manifest.inputs, given, model=self._manifest.name)
        found = self._known(given)
        self.rows_seen += len(found)
        if self._probabilities:
            return found
        return logits(found) if self._are_probabilities(found) else found

    def close(self) -> None:
        """Write the answers that wait, and close the engine."""
        if self._answers is not None:
            self._answers.flush()
            if self._answers.trouble is not None:
                self._progress.say(f"{self._answers.trouble}")
            elif self.rows_seen:
                self._progress.say(
                    f"the teacher answered {self.rows_asked:,} rows; "
                    f"{self.rows_seen - self.rows_asked:,} of {self.rows_seen:,} were answered "
                    "before"
                )
        self._engine.close()

    def _known(self, inputs: Tensors) -> Array:
        if self._answers is None:
            self.rows_asked += rows(inputs)
            return self._run(inputs)
        if self._answers.trouble is None and self._never_again():
            self._progress.say(
                "training() yields other rows each epoch, so the teacher answers them anew: "
                "its answers are not kept"
            )
            self._answers.forget()
        if self._answers.trouble is not None and not len(self._answers):
            self.rows_asked += rows(inputs)
            return self._run(inputs)
        keys = kept_answers.hashes(inputs, self._manifest)
        found = self._answers.find(keys)
        new = [index for index, each in enumerate(found) if each is None]
        if new:
            self.rows_asked += len(new)
            asked = self._run({name: array[new] for name, array in inputs.items()})
            self._answers.keep([keys[index] for index in new], asked)
            for index, each in zip(new, asked, strict=True):
                found[index] = each
        return np.stack([each for each in found if each is not None])

    def begin_epoch(self) -> None:
        """Rows that come from now on were taught before, unless training() makes new ones."""
        self._epoch_began = (self.rows_seen, self.rows_asked)
        self._epochs += 1

    def _never_again(self) -> bool:
        """Whether a second epoch has shown a good many rows, and none of them was known."""
        if self._epochs < 2:
            return False
        seen, asked = self._epoch_began
        return self.rows_seen - seen >= LIMIT_ROWS and self.rows_asked - asked == (
            self.rows_seen - seen
        )

    def _run(self, inputs: Tensors) -> Array:
        manifest = self._manifest
        fixed = manifest.fixed_batch
        step = fixed or manifest.batch.max_batch or LIMIT_ROWS
        parts = []
        for start in range(0, rows(inputs), step):
            part = {name: array[start : start + step] for name, array in inputs.items()}
            size = rows(part)
            if fixed and size < fixed:
                part = {
                    name: np.concatenate([array, np.repeat(array[-1:], fixed - size, axis=0)])
                    for name, array in part.items()
                }
            try:
                outputs = self._engine.run(part)
            except Exception as error:  # an engine raises its library's own errors
                raise StepError(
                    f"the teacher '{self._package.path}' fails on {size} rows: {first_line(error)}."
                ) from error
            parts.append(np.asarray(outputs[self._output][:size], np.float32))
        return np.concatenate(parts)

    def _are_probabilities(self, found: Array) -> bool:
        """Classes that are declared without softmax, every row of which adds up to 1."""
        declared = self._manifest.processing.output
        classes = isinstance(declared, ClassesOutput) and not declared.softmax
        return classes and found.ndim == 2 and are_probabilities(found)


class ModuleTeacher:
    """A torch module of the user's, with the inputs of `names` in the order of its forward()."""

    def __init__(self, module: Any, names: tuple[str, ...], *, kind: str) -> None:
        from mlserve_cli.training import soft

        self._names = names
        self._asked = soft.asked(module, kind=kind)

    def answer(self, inputs: Tensors) -> Array:
        """(rows, …) float32: the module's first output."""
        import torch

        found = self._asked(
            tuple(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self._names)
        )
        array: Array = found.cpu().numpy()
        return array

    def begin_epoch(self) -> None:
        """Every epoch is the same to it."""

    def close(self) -> None:
        """Nothing is held."""


def of(given: Any, names: tuple[str, ...], progress: Progress, *, kind: str) -> Teacher:
    """The teacher that a person named: a package's folder, `file.py[:function]`, or a module.

    Raises `StepError` for what cannot teach, and where its inputs are not `names`.
    """
    if hasattr(given, "state_dict") and callable(given):
        return ModuleTeacher(given, names, kind=kind)
    text = str(given)
    file, separator, function = text.rpartition(":")
    if not separator:
        file, function = text, "model"
    if file.endswith(".py"):
        module = Definition.load(Path(file)).function(function)()
        if not hasattr(module, "state_dict"):
            raise DefinitionError(
                f"{function}() of '{file}' returns {type(module).__name__}, and a definition "
                "teaches as a torch.nn.Module.",
                hint=f"export it first, and name the package: mlserve export {file} -o PKG",
            )
        return ModuleTeacher(module, names, kind=kind)
    package = Package.open(Path(text))
    theirs = {spec.name for spec in package.manifest.inputs}
    if theirs != set(names):
        raise StepError(
            f"the teacher '{text}' takes {', '.join(sorted(theirs))}, and the student "
            f"{', '.join(names)}.",
            hint="both must take inputs of the same names",
        )
    return PackageTeacher(package, progress)


def output_of(manifest: Manifest) -> str:
    """The output that teaches: the declared one, the only one, or the first of numbers."""
    declared = manifest.processing.output
    names = [spec.name for spec in manifest.outputs]
    if isinstance(declared, (ClassesOutput, ValuesOutput)) and declared.tensor in names:
        return declared.tensor
    numbers = [spec.name for spec in manifest.outputs if spec.datatype.startswith("FP")]
    if not numbers:
        raise StepError(
            f"'{manifest.name}' answers no scores and no numbers, only {', '.join(names)}: "
            "there is nothing to learn from."
        )
    return numbers[0]


def are_probabilities(found: Array) -> bool:
    """Whether every row lies between 0 and 1 and adds up to 1."""
    total = found.sum(axis=1)
    return bool((found >= 0).all() and (np.abs(total - 1) < 1e-3).all())


def logits(probabilities: Array) -> Array:
    """Their logarithm: what softmax makes them of, but for a constant."""
    found: Array = np.log(np.maximum(probabilities, TINY))
    return found


def as_answer(teacher: Teacher, names: tuple[str, ...]) -> Any:
    """The teacher as the training's lessons ask it: tensors in order → one tensor."""
    import torch

    def answer(inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        given = {
            name: tensor.detach().cpu().numpy() for name, tensor in zip(names, inputs, strict=True)
        }
        found = torch.from_numpy(np.ascontiguousarray(teacher.answer(given), np.float32))
        return found.to(inputs[0].device)

    return answer
