"""ensemble.json: packages and processing steps that answer as one model.

    serve/
      ensemble.json               this structure, with the tensors that go from step to step
      members/<name>/             a package without its source: manifest.json and serve/
      functions/<file>.py         what steps of the kind "function" call

All of it stands in the outer manifest's file list, so the digest covers the whole pipeline, and a
member that is made anew elsewhere changes nothing here.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from .. import manifest as manifests
from ..errors import PackageError
from ..manifest import SERVE, Manifest, check_name
from ..tensors import TensorSpec

FILE = "ensemble.json"
MEMBERS = "members"
FUNCTIONS = "functions"
ENGINE = "ensemble"

SCHEMA = 1
"""Raised when an older reader would misunderstand the file."""


class _Step(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    name: str


class PackageStep(_Step, frozen=True, kw_only=True, tag="package"):
    """Runs a member. inputs: the member's input → tensor. outputs: the member's output → tensor."""

    member: str
    inputs: dict[str, str]
    outputs: dict[str, str]

    @property
    def takes(self) -> tuple[str, ...]:
        """The tensors that it reads."""
        return tuple(self.inputs.values())

    @property
    def makes(self) -> tuple[str, ...]:
        """The tensors that it adds."""
        return tuple(self.outputs.values())


class FunctionStep(_Step, frozen=True, kw_only=True, tag="function"):
    """Calls `function` of `functions/<file>`: arrays by parameter → a dict of arrays.

    inputs: the function's parameter → tensor. outputs: key of what it returns → tensor.
    """

    file: str
    function: str
    inputs: dict[str, str]
    outputs: dict[str, str]

    @property
    def takes(self) -> tuple[str, ...]:
        """The tensors that it reads."""
        return tuple(self.inputs.values())

    @property
    def makes(self) -> tuple[str, ...]:
        """The tensors that it adds."""
        return tuple(self.outputs.values())


class OperationStep(_Step, frozen=True, kw_only=True, tag="operation"):
    """One of `operations.OPERATIONS` on `inputs` → `output`.

    axis: of softmax, argmax and concat; never 0, the rows. weights: of mean, one an input.
    datatype: of cast. shape: of reshape, a row's own, where -1 stands for what is left.
    """

    operation: str
    inputs: tuple[str, ...]
    output: str
    axis: int = -1
    weights: tuple[float, ...] = ()
    datatype: str | None = None
    shape: tuple[int, ...] | None = None

    @property
    def takes(self) -> tuple[str, ...]:
        """The tensors that it reads."""
        return self.inputs

    @property
    def makes(self) -> tuple[str, ...]:
        """The tensors that it adds."""
        return (self.output,)


Step = PackageStep | FunctionStep | OperationStep


class Ensemble(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. Steps run in their order; a tensor can be read once it was made.

    requirements: what the functions import, as lines of a requirements file.
    """

    schema: int = SCHEMA
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    steps: tuple[Step, ...]
    requirements: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """The text of ensemble.json."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


class _Header(msgspec.Struct):
    schema: Any = None


def read(path: Path) -> Ensemble:
    """Read and check an ensemble.json.

    Raises `PackageError` when it is missing, damaged, of a newer schema, or its steps do not fit.
    """
    try:
        text = path.read_bytes()
        schema = msgspec.json.decode(text, type=_Header).schema
        if isinstance(schema, int) and schema > SCHEMA:
            raise PackageError(
                f"'{path}' has schema {schema}, and this mlserve reads up to {SCHEMA}.",
                hint="upgrade mlserve, or export the ensemble again with this one",
            )
        found = msgspec.json.decode(text, type=Ensemble)
    except OSError as error:
        raise PackageError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(f"'{path}' is damaged: {error}.", hint="make it again") from error
    check(found.steps, [spec.name for spec in found.inputs], [spec.name for spec in found.outputs])
    return found


def check(steps: Collection[Step], inputs: Collection[str], outputs: Collection[str]) -> None:
    """Refuse steps that do not fit together.

    Raises `PackageError` for no steps or outputs, two steps of one name, a tensor that is read
    before it is made or made twice, and names that would leave the package.
    """
    if not steps:
        raise PackageError(
            "an ensemble has at least one step, and this one has none.",
            hint='[[steps]] with package = "PKG" is one',
        )
    if not outputs:
        raise PackageError(
            "an ensemble answers at least one tensor.", hint='outputs = ["TENSOR"] names it'
        )
    _check_names(steps)
    makers = {tensor: step.name for step in steps for tensor in step.makes}
    known = set(inputs)
    for step in steps:
        for tensor in step.takes:
            if tensor not in known:
                raise _unknown(step, tensor, known, makers)
        for tensor in step.makes:
            if tensor in inputs:
                raise PackageError(
                    f"step '{step.name}' makes '{tensor}', which is an input of the ensemble.",
                    hint="give the tensor another name in its outputs",
                )
            if tensor in known:
                other = next(each.name for each in steps if tensor in each.makes)
                twice = "twice" if other == step.name else f"and so does step '{other}'"
                raise PackageError(
                    f"step '{step.name}' makes '{tensor}', {twice}.",
                    hint="give one of them another name in outputs",
                )
            known.add(tensor)
    for tensor in outputs:
        if tensor not in makers:
            raise PackageError(
                f"the ensemble answers '{tensor}', which no step makes.",
                hint=near(tensor, makers) or f"the steps make {', '.join(makers)}",
            )
    if len(set(outputs)) != len(outputs):
        raise PackageError("the ensemble's outputs name a tensor twice.")
    taken = {tensor for step in steps for tensor in step.takes}
    for tensor in inputs:
        if tensor not in taken:
            raise PackageError(
                f"no step takes the input '{tensor}'.", hint=near(tensor, taken) or "leave it out"
            )


def near(name: str, names: Iterable[str]) -> str | None:
    """A hint with the name that was probably meant, where one is alike."""
    found = difflib.get_close_matches(name, list(names), 1)
    return f"did you mean '{found[0]}'?" if found else None


def folder(serve: Path, member: str) -> Path:
    """Where a member lies."""
    return serve / MEMBERS / member


def members(serve: Path) -> dict[str, Manifest]:
    """The members of the ensemble in `serve/`, by name, in the order of their first step.

    Raises `PackageError`.
    """
    found: dict[str, Manifest] = {}
    for step in read(serve / FILE).steps:
        if isinstance(step, PackageStep) and step.member not in found:
            found[step.member] = manifests.read(folder(serve, step.member))
    return found


def below(package: Path, manifest: Manifest) -> Iterator[tuple[Path, Manifest]]:
    """A package and, where it is an ensemble, all that it is made of, however deep."""
    yield package, manifest
    if manifest.engine == ENGINE:
        serve = package / SERVE
        for name, member in members(serve).items():
            yield from below(folder(serve, name), member)


def _check_names(steps: Iterable[Step]) -> None:
    seen: set[str] = set()
    for step in steps:
        check_name(step.name, "step name")
        if isinstance(step, PackageStep):
            check_name(step.member, "member name")
        if isinstance(step, FunctionStep):
            check_name(step.file, "file of a function")
        if step.name in seen:
            raise PackageError(
                f"two steps are called '{step.name}'.", hint='give one of them a name = "…"'
            )
        seen.add(step.name)


def _unknown(step: Step, tensor: str, known: set[str], makers: dict[str, str]) -> PackageError:
    maker = makers.get(tensor)
    if maker == step.name:
        return PackageError(
            f"step '{step.name}' takes '{tensor}', which it makes itself.",
            hint="give what it makes another name in its outputs",
        )
    if maker is not None:
        return PackageError(
            f"step '{step.name}' takes '{tensor}', which only the later step '{maker}' makes.",
            hint="steps run in the order in which they are written",
        )
    return PackageError(
        f"step '{step.name}' takes '{tensor}', which is no input and is made by no step.",
        hint=near(tensor, known) or f"until then there are {', '.join(sorted(known)) or 'none'}",
    )
