"""The model definition: the user's Python file, plain functions found by name.

model()         the trained model: torch.nn.Module, a fitted estimator of scikit-learn, XGBoost,
                LightGBM or CatBoost, or the path of a ready .onnx file            (required)
sample()        a few real inputs: an array, a tuple of arrays, a dict by input name, or a data
                frame
calibration()   yields batches of inputs, for ranges and statistics (else: the sample)
training()      yields batches of (inputs, targets), once an epoch
validation()    yields batches of (inputs, targets) that neither of the others has, for each epoch
evaluation()    yields batches of (inputs, targets) that training never saw
metric(outputs, targets)   one value a sample, or one number for all (then bootstrapped)
loss(outputs, targets)     for training; by default from the targets' type
architecture()  the network without its trained weights, to rebuild it from a package
                (else: model() is called again, with FILES beside it)
student()       a smaller network, for `mlserve distill`
METRIC          {"name": "accuracy", "higher_is_better": True, "unit": "points"}
TRAINING        {"epochs": 5, "learning_rate": 0.05, "batch_size" …}: what the training loop takes
PROCESSING      {"input": {"kind": "image", …}, "output": {"kind": "classes", …}}
LABELS          ["zero", "one", …]
DYNAMIC         {"ids": {1: "length"}}: torch sizes that may differ, beside the batch
OUTPUTS         names for a torch model's outputs (else: PROCESSING's, or what forward() says)
NAME, VERSION, DESCRIPTION, LICENCE   what the manifest says (NAME: else the folder's name)
FILES           names of files beside the definition that it needs; they travel in `source/`
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import msgspec
import numpy as np

from mlserve_cli.errors import DefinitionError, MlserveError
from mlserve_cli.package.frame import arrays, is_frame
from mlserve_cli.runtime.processing.declaration import Processing
from mlserve_cli.runtime.tensors import Array, Tensors

T = TypeVar("T")


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What METRIC says. In the unit "points" a value of 0 … 1 is shown, and gated, times 100."""

    name: str = "accuracy"
    higher_is_better: bool = True
    unit: str = "points"

    @property
    def scale(self) -> float:
        """What a value is multiplied by to be in the metric's unit."""
        return 100.0 if self.unit == "points" else 1.0


@dataclass(frozen=True, slots=True)
class Definition:
    """A definition that was imported."""

    path: Path
    module: ModuleType = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Definition:
        """Import the file at `path`, with its folder on the import path.

        Raises `DefinitionError` when it is missing, no Python, or raises while it is imported.
        """
        if not path.is_file():
            raise DefinitionError(
                f"the model definition '{path}' does not exist.",
                hint="'mlserve init DIR' writes a commented one",
            )
        path = path.resolve()
        # Named by content and place: two definitions called model.py live side by side.
        name = "mlserve_definition_" + hashlib.sha256(str(path).encode()).hexdigest()[:12]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise DefinitionError(
                f"'{path}' is not a Python file.", hint="a definition is a .py file"
            )
        module = importlib.util.module_from_spec(spec)
        folder = str(path.parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        sys.modules[name] = module
        definition = cls(path, module)
        # A package's source/ is read only by being imported: no __pycache__ may appear in it.
        writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            with_translation(definition, spec.loader.exec_module, module)
        finally:
            sys.dont_write_bytecode = writes_none
        return definition

    def has(self, name: str) -> bool:
        """Whether the definition holds something of that name."""
        return hasattr(self.module, name)

    def value(self, name: str, default: Any = None) -> Any:
        """A constant of the definition, or the default."""
        return getattr(self.module, name, default)

    def function(self, name: str) -> Callable[..., Any]:
        """The function of that name; what it raises becomes a `DefinitionError` with the line."""
        found = getattr(self.module, name, None)
        if not callable(found):
            raise DefinitionError(f"'{self.path}' has no function {name}().", hint=_HINTS.get(name))
        user_function: Callable[..., Any] = found

        def call(*args: Any) -> Any:
            return with_translation(self, user_function, *args)

        return call

    def batches(self, name: str) -> Iterator[Any]:
        """What the generator function `name` yields; a list is taken as it is."""
        given = self.function(name)()
        if not isinstance(given, Iterable):
            raise DefinitionError(
                f"{name}() of '{self.path}' returns {type(given).__name__}, where it must yield "
                "its batches."
            )
        iterator = iter(given)
        ended = object()
        while (item := with_translation(self, next, iterator, ended)) is not ended:
            yield item

    def pairs(self, name: str) -> Iterator[tuple[Any, Any]]:
        """The (inputs, targets) that `training` or `evaluation` yields."""
        for item in self.batches(name):
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise DefinitionError(
                    f"{name}() of '{self.path}' yields {type(item).__name__}, "
                    "where it must yield (inputs, targets).",
                    hint="inputs without targets are enough for 'mlserve distill'"
                    if name == "training"
                    else "yield the right answers beside the inputs",
                )
            yield item[0], item[1]

    @property
    def metric(self) -> Metric:
        """METRIC, checked; accuracy in points where it is missing."""
        return _convert(self, "METRIC", self.value("METRIC", {}), Metric)

    @property
    def processing(self) -> Processing:
        """PROCESSING, checked; nothing declared where it is missing."""
        return _convert(self, "PROCESSING", self.value("PROCESSING", {}), Processing)

    @property
    def labels(self) -> tuple[str, ...]:
        """LABELS, one a class."""
        return tuple(str(label) for label in self.value("LABELS", ()))

    @property
    def files(self) -> tuple[Path, ...]:
        """FILES, checked to be there and to lie beside the definition."""
        found = []
        for name in self.value("FILES", ()):
            path = (self.path.parent / str(name)).resolve()
            if not path.is_relative_to(self.path.parent) or not path.is_file():
                raise DefinitionError(
                    f"FILES of '{self.path}' names '{name}', which is no file beside it."
                )
            found.append(path)
        return tuple(found)


def with_translation(definition: Definition, call: Callable[..., Any], *args: Any) -> Any:
    """Call the user's code; what it raises becomes a sentence with the line it came from."""
    try:
        return call(*args)
    except (MlserveError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # a definition may also call sys.exit()
        line = _line(definition.path, error)
        where = f" at line {line}" if line else ""
        raise DefinitionError(
            f"'{definition.path}' raised {type(error).__name__}{where}: {error}",
            hint=_mend(error),
        ) from error


def named(value: Any, names: tuple[str, ...], *, what: str) -> Tensors:
    """Inputs as a definition gives them (array, tuple or dict; torch or NumPy) → arrays by name.

    Text becomes `BYTES`. Raises `DefinitionError` when the number or the names do not fit.
    """
    if is_frame(value):
        given = arrays(value, what=what)
        if len(names) == 1 and names[0] not in given:
            given = {names[0]: _matrix(given, what)}
    elif isinstance(value, Mapping):
        given = {str(name): to_array(item) for name, item in value.items()}
    elif isinstance(value, tuple):
        if len(value) != len(names):
            raise DefinitionError(
                f"{what} has {len(value)} inputs, and the model takes {len(names)}: "
                f"{', '.join(names)}."
            )
        given = {name: to_array(item) for name, item in zip(names, value, strict=True)}
    else:
        if len(names) != 1:
            raise DefinitionError(
                f"{what} has one input, and the model takes {len(names)}: {', '.join(names)}.",
                hint="give a tuple in that order, or a dict by name",
            )
        given = {names[0]: to_array(value)}
    if set(given) != set(names):
        raise DefinitionError(
            f"{what} has the inputs {', '.join(sorted(given))}, "
            f"and the model takes {', '.join(names)}."
        )
    sizes = {array.shape[0] if array.ndim else 0 for array in given.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise DefinitionError(
            f"{what} must have a first dimension, the batch, of the same size in every input.",
            hint="one sample alone still needs it: shape (1, …)",
        )
    return {name: given[name] for name in names}


def _matrix(columns: dict[str, Array], what: str) -> Array:
    for name, array in columns.items():
        if array.dtype.kind == "O":
            raise DefinitionError(
                f"the column '{name}' of {what} is text, and the model takes a matrix of numbers."
            )
    return np.concatenate([array.astype(np.float64) for array in columns.values()], axis=1)


def to_array(value: Any) -> Array:
    """A torch tensor, an array, a data-frame column or a list → a NumPy array; text → `BYTES`."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    elif hasattr(value, "to_numpy"):
        value = value.to_numpy()
    array = np.asarray(value)
    if array.dtype.kind in "SUOT":
        flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
        raw = np.empty(len(flat), dtype=np.object_)
        raw[:] = flat
        return raw.reshape(array.shape)
    return array


def _convert(definition: Definition, name: str, value: Any, target: type[T]) -> T:
    try:
        return msgspec.convert(value, target)
    except msgspec.ValidationError as error:
        raise DefinitionError(f"{name} of '{definition.path}' is wrong: {error}.") from error


def _mend(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        return f"install what holds '{missing}' beside mlserve: {sys.executable} -m pip install …"
    return "mend the definition; --debug shows the whole traceback"


def _line(path: Path, error: BaseException) -> int | None:
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return lines[-1] if lines else None


_HINTS = {
    "model": "a definition needs model(), which returns the trained model",
    "sample": "sample() returns a few real inputs; the export is traced and checked with them",
    "calibration": "calibration() yields batches of real inputs; or pass --calibration FILE",
    "training": "training() yields batches of (inputs, targets), once an epoch",
    "validation": "validation() yields batches of (inputs, targets), not those of evaluation()",
    "evaluation": "evaluation() yields batches of (inputs, targets); or pass --data FILE",
    "student": "student() returns the smaller network that is to learn from the model",
}
