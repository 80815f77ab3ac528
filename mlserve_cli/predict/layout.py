"""Which columns of a table go into which of the package's inputs, by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlserve_cli.data import targets
from mlserve_cli.data.columns import ColumnRows
from mlserve_cli.data.processed import ProcessedRows
from mlserve_cli.data.reading import Reading
from mlserve_cli.data.rows import Assembler
from mlserve_cli.errors import DataError
from mlserve_cli.predict.blocks import Plan, listed
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import ImageInput, TableInput, TextInput


@dataclass(frozen=True, slots=True)
class Layout:
    """What of a row is used.

    columns: what the package calls a column → the file's column. matrix: whether all of them, in
    their order, are the one matrix of a model that declares nothing. whole: the row is handed over
    as it is, without `dropped`, to the package's own code. bare: the value of the only column is
    the row.
    """

    assembler: Assembler
    columns: Mapping[str, str]
    matrix: bool = False
    whole: bool = False
    bare: bool = False
    dropped: str | None = None

    def row(self, value: Any) -> Any:
        """A row of the file → what the assembler takes."""
        if not isinstance(value, dict):
            return value
        if self.whole:
            return {
                **{name: each for name, each in value.items() if name != self.dropped},
                **{name: value[column] for name, column in self.columns.items() if column in value},
            }
        if self.bare:
            ((_, column),) = self.columns.items()
            return value.get(column)
        return {name: value[column] for name, column in self.columns.items() if column in value}


def find(names: Sequence[str], plan: Plan, *, where: str, nested: Sequence[str] = ()) -> Layout:
    """Decide by the names of the columns. `nested` are those whose cells hold lists.

    Raises `DataError` naming what is missing, or too much, and what is there.
    """
    manifest = plan.manifest
    for columns in (*plan.mapping.values(), plan.keep):
        for column in columns:
            if column not in names:
                raise targets.missing(column, names, where=where)
    declared = manifest.processing.input
    if isinstance(declared, TableInput):
        return _table(declared, names, plan, where)
    if isinstance(declared, TextInput):
        return _single(names, plan, where, ("text", declared.tensor))
    if isinstance(declared, ImageInput):
        return _single(names, plan, where, ("image", declared.tensor))
    if manifest.processing.python is not None:
        renamed = {name: column for name, (column,) in plan.mapping.items()}
        target = targets.find(names, None, where=where)
        reading = _reading(plan, where)
        return Layout(ProcessedRows(None, None, reading), renamed, whole=True, dropped=target)
    return _tensors(names, plan, where, nested)


def _reading(plan: Plan, where: str) -> Reading:
    return Reading(
        name=where,
        manifest=plan.manifest,
        processor=plan.processor,
        batch=plan.block,
        targets=False,
    )


def _table(declared: TableInput, names: Sequence[str], plan: Plan, where: str) -> Layout:
    known = [column.name for column in declared.columns]
    _check_mapping(plan, known, "column of the package")
    columns = {name: plan.mapping.get(name, (name,))[0] for name in known}
    there = {name: column for name, column in columns.items() if column in names}
    # Those that were mapped stand under their new names; the check then says what is missing.
    shown = [*there, *(name for name in names if name not in there.values())]
    assembler = ProcessedRows(dict.fromkeys(shown), None, _reading(plan, where))
    return Layout(assembler, there)


def _single(names: Sequence[str], plan: Plan, where: str, usual: tuple[str, str]) -> Layout:
    """The one column with a text or a picture in each row."""
    _check_mapping(plan, usual, "input")
    reading = _reading(plan, where)
    for name in usual:
        if name in plan.mapping:
            column = plan.mapping[name][0]
            return Layout(ProcessedRows(None, None, reading), {name: column}, bare=True)
    target = targets.find(names, None, where=where)
    others = [name for name in names if name != target and name not in plan.keep]
    chosen = usual[0] if usual[0] in names else others[0] if len(others) == 1 else None
    if chosen is None:
        raise targets.missing(usual[0], names, where=where)
    return Layout(ProcessedRows(None, None, reading), {usual[0]: chosen}, bare=True)


def _tensors(names: Sequence[str], plan: Plan, where: str, nested: Sequence[str]) -> Layout:
    specs = plan.manifest.inputs
    inputs = [spec.name for spec in specs]
    _check_mapping(plan, inputs, "input", several=len(specs) == 1)
    reading = _reading(plan, where)
    if len(specs) == 1 and len(plan.mapping.get(inputs[0], ())) > 1:
        return _matrix(list(plan.mapping[inputs[0]]), plan, where)
    columns = {name: plan.mapping.get(name, (name,))[0] for name in inputs}
    if all(column in names for column in columns.values()):
        scalar = not any(column in nested for column in columns.values())
        one = all(len(spec.shape) == 1 or _is_one(spec.shape[1:]) for spec in specs)
        if scalar and one:
            return Layout(ColumnRows(inputs, None, reading), columns)
        if not scalar:
            return Layout(reading.processor, columns)
    target = targets.find(names, None, where=where)
    spec = specs[0]
    if len(specs) > 1 or len(spec.shape) != 2 or spec.datatype == "BYTES":
        absent = next((name for name in inputs if columns[name] not in names), None)
        if absent is not None:
            raise targets.missing(columns[absent], list(names), where=where)
        raise DataError(
            f"the model's inputs are no single values, and those of {where} are.",
            hint="use .npz, or Parquet or JSON Lines with lists by input name",
        )
    if not all(name in names for name in columns.values()) and len(names) == spec.shape[1]:
        return _matrix(list(names), plan, where)  # as wide as the model: no target among them
    left = [name for name in names if name != target]
    if len(left) != spec.shape[1]:
        left = [name for name in left if name not in plan.keep]
    if isinstance(spec.shape[1], int) and len(left) != spec.shape[1]:
        raise DataError(
            f"{where} has {len(left)} columns, and input '{spec.name}' takes {spec.shape[1]}.",
            hint=f"they are {listed(left)}"
            + (f"; '{target}' is the target" if target else "")
            + f"; --map {spec.name}=A,B,C says which are meant",
        )
    return _matrix(left, plan, where)


def _matrix(columns: list[str], plan: Plan, where: str) -> Layout:
    assembler = ColumnRows(columns, None, _reading(plan, where))
    return Layout(assembler, {name: name for name in columns}, matrix=True)


def _is_one(sizes: Sequence[int | str]) -> bool:
    return len(sizes) == 1 and (sizes[0] == 1 or isinstance(sizes[0], str))


def _check_mapping(plan: Plan, known: Sequence[str], what: str, *, several: bool = False) -> None:
    for name, columns in plan.mapping.items():
        if name not in known:
            raise targets.missing(name, list(known), where=f"'{plan.manifest.name}'", what=what)
        if len(columns) > 1 and not several:
            raise DataError(f"--map gives '{name}' {len(columns)} columns, and it takes one.")


def check_names(manifest: Manifest) -> None:
    """Refuse a package that takes its rows whole: they cannot come from a file of many."""
    from mlserve_cli.runtime.tensors import whole_only

    if whole_only(manifest.inputs) and manifest.processing.python is None:
        names = ", ".join(f"'{spec.name}' {spec.wire_shape}" for spec in manifest.inputs)
        raise DataError(
            f"'{manifest.name}' takes its inputs whole, not row by row: {names}.",
            hint="'mlserve up' serves it",
        )
