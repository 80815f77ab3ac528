"""ensemble.toml: what a person writes of a pipeline.

name, version, description, licence, labels     what the manifest says
outputs = ["probabilities"]                     the tensors that are answered
inputs = ["measures"]                           optional: those that are asked for
[[steps]]  package = "packages/boosting"        a package; or
[[steps]]  function = "steps.py:crop"           a function of a file beside this one; or
[[steps]]  operation = "mean"                   one that needs no code
[tensors.image]  datatype, shape                what no member's signature tells
[processing]                                    as PROCESSING of a model definition
definition = "model.py"                         evaluation(), calibration() … of the whole
requirements = ["scipy"]                        what the functions import beside numpy
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from mlserve_cli.errors import DefinitionError
from mlserve_cli.runtime.processing.declaration import Processing

_KINDS = ("package", "function", "operation")


class PackageEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step that runs a package; what inputs and outputs leave out keeps its name.

    outputs: those that are kept; all of them where it is missing.
    """

    package: str
    name: str | None = None
    inputs: dict[str, str] = {}
    outputs: dict[str, str] | None = None


class FunctionEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step that calls `FILE.py:NAME`. A list stands for a table of the same names."""

    function: str
    outputs: list[str] | dict[str, str]
    name: str | None = None
    inputs: list[str] | dict[str, str] | None = None


class OperationEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A declared step; the parameters are those of `runtime.ensemble.declaration`."""

    operation: str
    inputs: list[str]
    output: str
    name: str | None = None
    axis: int = -1
    weights: list[float] = []
    datatype: str | None = None
    shape: list[int] | None = None


Entry = PackageEntry | FunctionEntry | OperationEntry


class Told(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tensor's signature, where no member tells it."""

    datatype: str
    shape: list[int | str]


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    steps: list[dict[str, Any]]
    outputs: list[str]
    inputs: list[str] | None = None
    name: str | None = None
    version: str | None = None
    description: str = ""
    licence: str | None = None
    labels: list[str] | None = None
    tensors: dict[str, Told] = {}
    processing: Processing = Processing()
    definition: str | None = None
    requirements: list[str] = []


class EnsembleFile(_File, frozen=True, kw_only=True):
    """The file, read. entries: its steps. Paths in it are relative to its folder."""

    path: Path
    entries: tuple[Entry, ...]

    @property
    def folder(self) -> Path:
        """Where the file lies."""
        return self.path.parent

    def beside(self, name: str, what: str) -> Path:
        """A file of that plain name beside this one. Raises `DefinitionError`."""
        found = self.folder / name
        if Path(name).name != name or not found.is_file():
            raise DefinitionError(
                f"{what} of '{self.path}' is '{name}', and there is no such file beside it.",
                hint="a plain name: what is shipped lies in the folder of the ensemble",
            )
        return found


def read(path: Path) -> EnsembleFile:
    """Read ensemble.toml. Raises `DefinitionError` naming what is wrong in it."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DefinitionError(f"'{path}' is no TOML: {error}.") from error
    except OSError as error:
        raise DefinitionError(f"'{path}' cannot be read: {error.strerror}.") from error
    values.setdefault("steps", [])
    values.setdefault("outputs", [])
    try:
        file = msgspec.convert(values, _File)
    except msgspec.ValidationError as error:
        raise DefinitionError(f"'{path}' is wrong: {error}.", hint=_HINT) from error
    entries = tuple(_entry(path, number, entry) for number, entry in enumerate(file.steps, 1))
    return EnsembleFile(**msgspec.structs.asdict(file), path=path, entries=entries)


_HINT = "docs/ensembles.md shows a whole file"


def _entry(path: Path, number: int, values: dict[str, Any]) -> Entry:
    kinds = [kind for kind in _KINDS if kind in values]
    if len(kinds) != 1:
        what = " and ".join(kinds) or "none of " + ", ".join(_KINDS)
        raise DefinitionError(
            f"step {number} of '{path}' has {what}; it must have one of "
            f"{', '.join(_KINDS[:-1])} and {_KINDS[-1]}.",
            hint=_HINT,
        )
    types: dict[str, type[Entry]] = {
        "package": PackageEntry,
        "function": FunctionEntry,
        "operation": OperationEntry,
    }
    try:
        found: Entry = msgspec.convert(values, types[kinds[0]])
    except msgspec.ValidationError as error:
        raise DefinitionError(
            f"step {number} ({values[kinds[0]]}) of '{path}' is wrong: {error}.", hint=_HINT
        ) from error
    return found
