"""What the members' signatures say of the tensors between them, and of the ensemble's own.

Sizes that must be equal are united: those of a tensor that several steps read, and those that one
member calls by one name. What a function makes is known only where `[tensors]` tells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlserve_cli.errors import DefinitionError
from mlserve_cli.export.ensemble.source import Told
from mlserve_cli.export.ensemble.wiring import Wired
from mlserve_cli.runtime.ensemble.declaration import FunctionStep, OperationStep, PackageStep, Step
from mlserve_cli.runtime.ensemble.member import free
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import DATATYPES, TensorSpec

Size = tuple[str, str] | int
"""A number, or a name in the scope of a step."""

_BATCH: Size = ("", "batch")


class _Conflict(Exception):
    """Two sizes that are not the same."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of one. by: the step that said so."""

    datatype: str
    shape: tuple[Size, ...]
    by: str


@dataclass(slots=True)
class Shapes:
    """What is known so far, by tensor."""

    known: dict[str, Tensor] = field(default_factory=dict)
    _same: dict[Size, Size] = field(default_factory=dict)

    def specs(self, names: tuple[str, ...]) -> tuple[TensorSpec | None, ...]:
        """The signatures of these tensors; None for one that nothing tells of."""
        taken: dict[str, Size] = {"batch": _BATCH}
        found: list[TensorSpec | None] = []
        for name in names:
            tensor = self.known.get(name)
            if tensor is None:
                found.append(None)
                continue
            shape = tuple(self._named(size, taken) for size in tensor.shape)
            found.append(TensorSpec(name, tensor.datatype, shape))
        return tuple(found)

    def unite(self, left: Size, right: Size) -> None:
        """Two sizes are one. Raises `_Conflict` where they are different numbers."""
        left, right = self._root(left), self._root(right)
        if left == right:
            return
        if isinstance(left, int):
            if isinstance(right, int):
                raise _Conflict
            left, right = right, left
        if left == _BATCH and not isinstance(right, int):
            left, right = right, left
        self._same[left] = right

    def size(self, size: Size) -> Size:
        """The number that it stands for, where there is one."""
        return self._root(size)

    def _root(self, size: Size) -> Size:
        while size in self._same and not isinstance(size, int):
            size = self._same[size]
        return size

    def _named(self, size: Size, taken: dict[str, Size]) -> int | str:
        root = self._root(size)
        if isinstance(root, int):
            return root
        name, number = root[1], 1
        while taken.setdefault(name, root) != root:
            number += 1
            name = f"{root[1]}_{number}"
        return name


def infer(wired: Wired, told: Mapping[str, Told]) -> Shapes:
    """Follow the tensors through the steps. Raises `DefinitionError` where two do not fit."""
    shapes = Shapes()
    for name, each in told.items():
        if each.datatype not in DATATYPES:
            raise DefinitionError(
                f"[tensors.{name}] has the datatype '{each.datatype}'; it can be "
                f"{', '.join(DATATYPES)}."
            )
        if any(size == "" or (isinstance(size, int) and size < 1) for size in each.shape):
            raise DefinitionError(
                f"[tensors.{name}] has the shape {each.shape}; sizes are numbers above 0, or names "
                "where they may differ."
            )
        # A name means the same size in all that the file tells; "batch" is the rows.
        shapes.known[name] = Tensor(each.datatype, _shape("", each.shape), f"[tensors.{name}]")
    for step in wired.steps:
        match step:
            case PackageStep():
                _member(shapes, step, wired)
            case OperationStep():
                _check_told(shapes, step, wired)
                _operation(shapes, step)
            case FunctionStep():
                _check_told(shapes, step, wired)
    for name in wired.inputs:
        tensor = shapes.known[name]
        if tensor.shape and not isinstance(shapes.size(tensor.shape[0]), int):
            shapes.unite(tensor.shape[0], _BATCH)
    return shapes


def _member(shapes: Shapes, step: PackageStep, wired: Wired) -> None:
    inputs, outputs = _signature(wired.members[step.member].manifest)
    made_by_functions = {
        tensor for each in wired.steps if isinstance(each, FunctionStep) for tensor in each.makes
    }
    for spec in inputs:
        name = step.inputs[spec.name]
        own = Tensor(spec.datatype, _shape(step.name, spec.shape), step.name)
        if name in shapes.known:
            _fit(shapes, step, name, own)
        elif name not in made_by_functions and name in wired.inputs:
            shapes.known[name] = own
    for spec in outputs:
        if spec.name in step.outputs:
            _made(
                shapes,
                step,
                step.outputs[spec.name],
                Tensor(spec.datatype, _shape(step.name, spec.shape), step.name),
            )


def _operation(shapes: Shapes, step: OperationStep) -> None:
    found = [shapes.known[name] for name in step.inputs if name in shapes.known]
    if len(found) < len(step.inputs):
        return  # a function's, so the dry run tells
    first = found[0]
    for name, each in zip(step.inputs, found, strict=True):
        if each.datatype == "BYTES" or (
            step.operation in ("softmax", "mean") and DATATYPES[each.datatype].kind != "f"
        ):
            raise DefinitionError(
                f"step '{step.name}' ({step.operation}) takes '{name}', which is {each.datatype}.",
                hint='a step with operation = "cast", datatype = "FP32" makes it a float',
            )
    shape = list(first.shape)
    match step.operation:
        case "mean":
            for name in step.inputs[1:]:
                _fit(shapes, step, name, Tensor(first.datatype, first.shape, step.name))
            made = first
        case "softmax":
            _axis(step, shape)
            made = first
        case "argmax":
            del shape[_axis(step, shape)]
            made = Tensor("INT64", tuple(shape), step.name)
        case "concat":
            axis = _axis(step, shape)
            sizes: list[Size] = []
            for name, each in zip(step.inputs, found, strict=True):
                other = list(each.shape)
                if len(other) != len(shape):
                    raise _ranks(step, name, each, first)
                sizes.append(shapes.size(other[axis]))
                other[axis] = shape[axis]
                _fit_shapes(shapes, step, name, Tensor(each.datatype, tuple(other), each.by), first)
            numbers = [size for size in sizes if isinstance(size, int)]
            all_known = len(numbers) == len(sizes)
            shape[axis] = sum(numbers) if all_known else (step.name, f"{step.output}_{axis}")
            made = Tensor(first.datatype, tuple(shape), step.name)
        case "cast":
            made = Tensor(step.datatype or "", first.shape, step.name)
        case _:  # reshape
            rest = [
                (step.name, f"{step.output}_{axis}") if size == -1 else size
                for axis, size in enumerate(step.shape or (), 1)
            ]
            row = [shapes.size(size) for size in shape[1:]]
            if -1 in (step.shape or ()) and all(isinstance(size, int) for size in row):
                rest = _filled(step, [size for size in row if isinstance(size, int)])
            made = Tensor(first.datatype, (shape[0], *rest), step.name)
    _made(shapes, step, step.output, made)


def _filled(step: OperationStep, row: list[int]) -> list[Size]:
    """The shape of a row whose size is known, with -1 as the number that it stands for."""
    total = known = 1
    for size in row:
        total *= size
    for size in step.shape or ():
        known *= 1 if size == -1 else size
    if total % known:
        raise DefinitionError(
            f"step '{step.name}' reshapes rows of {total} numbers to {list(step.shape or ())}."
        )
    return [total // known if size == -1 else size for size in step.shape or ()]


def _made(shapes: Shapes, step: Step, name: str, made: Tensor) -> None:
    if name in shapes.known:  # told in [tensors]
        _fit(shapes, step, name, made)
    shapes.known[name] = made


def _fit(shapes: Shapes, step: Step, name: str, wanted: Tensor) -> None:
    """A tensor must be what a step takes it for."""
    found = shapes.known[name]
    if found.datatype != wanted.datatype:
        raise DefinitionError(
            f"step '{step.name}' takes '{name}' as {wanted.datatype}, and it is {found.datatype} "
            f"by {_by(found)}.",
            hint=f'a step with operation = "cast", datatype = "{wanted.datatype}" between them '
            "makes it fit",
        )
    _fit_shapes(shapes, step, name, found, wanted)


def _fit_shapes(shapes: Shapes, step: Step, name: str, found: Tensor, wanted: Tensor) -> None:
    if len(found.shape) != len(wanted.shape):
        raise _ranks(step, name, found, wanted)
    for left, right in zip(found.shape, wanted.shape, strict=True):
        try:
            shapes.unite(left, right)
        except _Conflict:
            raise _ranks(step, name, found, wanted) from None


def _ranks(step: Step, name: str, found: Tensor, wanted: Tensor) -> DefinitionError:
    return DefinitionError(
        f"step '{step.name}' takes '{name}' as {_text(wanted)}, and it is {_text(found)} by "
        f"{_by(found)}.",
        hint='a step with operation = "reshape", or a function, between them makes it fit',
    )


def _check_told(shapes: Shapes, step: FunctionStep | OperationStep, wired: Wired) -> None:
    """An input that no member has read yet has no signature."""
    for name in step.takes:
        if name not in wired.inputs or name in shapes.known:
            continue
        reader = next(
            (each for each in wired.steps if isinstance(each, PackageStep) and name in each.takes),
            None,
        )
        if reader is None:
            raise DefinitionError(
                f"nothing tells what the input '{name}' is: only step '{step.name}' takes it.",
                hint=f'[tensors.{name}] with datatype = "FP32" and shape = ["batch", 3] tells',
            )
        inputs, _ = _signature(wired.members[reader.member].manifest)
        spec = next(spec for spec in inputs if reader.inputs[spec.name] == name)
        shapes.known[name] = Tensor(spec.datatype, _shape(reader.name, spec.shape), reader.name)


def _signature(manifest: Manifest) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the ensemble sees them: a fixed batch is fed by pieces."""
    if manifest.fixed_batch is None:
        return manifest.inputs, manifest.outputs
    return free(manifest.inputs), free(manifest.outputs)


def _axis(step: OperationStep, shape: list[Size]) -> int:
    axis = step.axis + len(shape) if step.axis < 0 else step.axis
    if not 0 < axis < len(shape):
        raise DefinitionError(
            f"step '{step.name}' ({step.operation}) works along axis {step.axis} of a tensor with "
            f"{len(shape)}, the first of which are the rows."
        )
    return axis


def _shape(scope: str, shape: tuple[int | str, ...] | list[int | str]) -> tuple[Size, ...]:
    return tuple(size if isinstance(size, int) else (scope, size) for size in shape)


def _text(tensor: Tensor) -> str:
    sizes = ", ".join(str(size if isinstance(size, int) else size[1]) for size in tensor.shape)
    return f"({sizes})"


def _by(tensor: Tensor) -> str:
    return tensor.by if tensor.by.startswith("[") else f"step '{tensor.by}'"
