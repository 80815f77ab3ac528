"""Where the cases of an evaluation come from: batches of inputs by name, and their targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mlserve_cli.errors import DataError, DefinitionError
from mlserve_cli.evaluate.batches import run_rows
from mlserve_cli.evaluate.metrics import told
from mlserve_cli.package.definition import Definition, named
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.tensors import Array, Tensors

Case = tuple[Tensors, Any]
"""Inputs by name, and the targets: (batch, …) in any form that `metric()` understands."""

DEFINITION = "definition.py"


@dataclass(frozen=True, slots=True)
class Decisions:
    """Targets that nobody knows to be right: what another package decided, (batch,).

    Of tokens, (batch, length); where it decides nothing, its values, (batch, n), or embeddings,
    (batch, size).
    """

    values: Array


def definition_of(package: Package) -> Definition | None:
    """The definition that the package was made from, where it holds one."""
    path = package.source / DEFINITION
    return Definition.load(path) if path.is_file() else None


def from_definition(definition: Definition, input_names: tuple[str, ...]) -> Iterator[Case]:
    """What the definition's evaluation() yields, with the inputs by name.

    Raises `DefinitionError` when it has no evaluation(), or the inputs do not fit the names.
    """
    for inputs, targets in definition.pairs("evaluation"):
        if targets is None:
            raise DefinitionError(
                f"evaluation() of '{definition.path}' yields None as targets.",
                hint="it yields batches of (inputs, targets)",
            )
        yield named(inputs, input_names, what=f"evaluation() of '{definition.path}'"), targets


def from_data(
    package: Package,
    spec: str,
    *,
    target: str | None = None,
    reference: Package | None = None,
) -> Iterator[Case]:
    """The rows of a data file with their targets; without any, with `reference`'s decisions.

    Raises `DataError` when the data has no targets and there is no reference.
    """
    engine: Engine | None = None
    try:
        for inputs, targets in _read(package, spec, target):
            if targets is not None:
                yield inputs, targets
                continue
            if reference is None:
                raise DataError(
                    f"'{spec}' has no targets to compare the answers with.",
                    hint="name the column with --column NAME, or compare with --reference PKG",
                )
            engine = engine or reference.engine()
            yield inputs, _decided(engine, reference, inputs)
    finally:
        if engine is not None:
            engine.close()


def inputs_of(package: Package, spec: str) -> Iterator[Tensors]:
    """The rows of a data file without their targets."""
    for inputs, _ in _read(package, spec, None, targets=False):
        yield inputs


def from_reference(reference: Package, batches: Iterable[Tensors]) -> Iterator[Case]:
    """Rows without targets: what `reference` decides on each takes their place."""
    engine = reference.engine()
    try:
        for inputs in batches:
            yield inputs, _decided(engine, reference, inputs)
    finally:
        engine.close()


def _decided(engine: Engine, reference: Package, inputs: Tensors) -> Decisions:
    manifest = reference.manifest
    return Decisions(told(run_rows(engine, manifest, inputs), inputs, manifest))


def _read(
    package: Package, spec: str, target: str | None, *, targets: bool = True
) -> Iterator[tuple[Tensors, Any]]:
    from mlserve_cli.data.source import read
    from mlserve_cli.runtime import processing

    processor = processing.build(package.manifest, package.serve)
    for batch in read(spec, package.manifest, processor, target=target, targets=targets):
        yield batch.inputs, batch.targets
