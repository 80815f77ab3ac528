"""NumPy's files: .npz with an array an input, .npy with the one input. Read some rows at a time."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, BinaryIO

from mlserve_cli.data import npz, targets
from mlserve_cli.data.fit import fit
from mlserve_cli.data.npz import Member
from mlserve_cli.errors import DataError, first_line
from mlserve_cli.predict.blocks import Block, Plan, Prepared, listed
from mlserve_cli.predict.inputs import Inputs
from mlserve_cli.predict.job import Position
from mlserve_cli.predict.location import DAMAGED
from mlserve_cli.runtime.tensors import Tensors


class NpzReader:
    """Rows of the archive's arrays; other arrays beside them are left alone, but for `keep`."""

    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        self._files = inputs.files
        self._plan = plan

    def total(self) -> int | None:
        """From the headers of the arrays."""
        total = 0
        for index in range(len(self._files)):
            with self._opened(index) as (members, _):
                total += next(iter(members.values())).shape[0]
        return total

    def blocks(self, start: Position) -> Iterator[Block]:
        """A block holds (inputs, kept arrays)."""
        for index in range(start.file, len(self._files)):
            where = self._files[index].name
            with self._opened(index) as (members, kept):
                row = start.row if index == start.file else 0
                everything = [*members.values(), *kept.values()]
                total = members[next(iter(members))].shape[0]
                if row:
                    for member in everything:
                        member.skip(row)
                while row < total:
                    count = min(self._plan.block, total - row)
                    inputs = {name: member.take(count) for name, member in members.items()}
                    beside = {name: member.take(count) for name, member in kept.items()}
                    after = Position(file=index, row=row + count)
                    yield Block((inputs, beside), where, row + 1, count, after)
                    row += count

    @contextlib.contextmanager
    def _opened(self, index: int) -> Iterator[tuple[dict[str, Member], dict[str, Member]]]:
        """(the model's inputs, kept arrays), each at its first row.

        Raises `DataError`, also for what goes wrong while they are read.
        """
        name = self._files[index].name
        with self._files[index].open() as file, contextlib.ExitStack() as stack:
            try:
                there = self._members(file, name, stack)
                chosen = _choose(list(there), self._plan, name)
                members = {wanted: there[array](stack) for wanted, array in chosen.items()}
                kept = {wanted: there[wanted](stack) for wanted in self._plan.keep}
                _check_sizes((*members.values(), *kept.values()), name)
                yield members, kept
            except (*DAMAGED, ValueError, zipfile.BadZipFile) as error:
                raise _damaged(name, error) from error

    def _members(self, file: BinaryIO, name: str, stack: contextlib.ExitStack) -> dict[str, Any]:
        archive = stack.enter_context(zipfile.ZipFile(file))

        def opener(entry: str) -> Any:
            def opened(on: contextlib.ExitStack) -> Member:
                array = entry.removesuffix(".npy")
                return npz.opened(on.enter_context(archive.open(entry)), array, f"'{name}'")

            return opened

        return {
            entry.removesuffix(".npy"): opener(entry)
            for entry in archive.namelist()
            if entry.endswith(".npy")
        }

    def prepare(self, block: Block) -> Prepared:
        """Cast to the model's datatypes. Raises `DataError`: what one row is, all are."""
        inputs: Tensors
        inputs, beside = block.content
        where = f"'{block.where}', rows {block.first} to {block.first + block.count - 1}"
        fitted = fit(inputs, self._plan.manifest, where=where)
        return Prepared([fitted], range(block.count), kept=dict(beside))

    def close(self) -> None:
        """Files are closed as they end."""


class NpyReader(NpzReader):
    """One array without a name."""

    def _members(self, file: IO[bytes], name: str, stack: contextlib.ExitStack) -> dict[str, Any]:
        return {"array": lambda on: npz.opened(file, "array", f"'{name}'")}


def _choose(names: list[str], plan: Plan, where: str) -> dict[str, str]:
    """The model's inputs → the arrays that hold them."""
    if not names:
        raise DataError(f"'{where}' is empty: it holds no arrays.")
    inputs = [spec.name for spec in plan.manifest.inputs]
    for name, arrays in plan.mapping.items():
        if name not in inputs:
            raise targets.missing(name, inputs, where=f"'{plan.manifest.name}'", what="input")
        if len(arrays) > 1:
            raise DataError(f"--map gives '{name}' {listed(arrays)}, and it is one array.")
    chosen = {name: plan.mapping.get(name, (name,))[0] for name in inputs}
    others = [name for name in names if name not in (*targets.NAMES, *plan.keep)]
    # One input and one array: whatever it is called, there is nothing else to mean.
    if len(inputs) == 1 and not plan.mapping and chosen[inputs[0]] not in names:
        candidates = names if len(names) == 1 else others
        if len(candidates) == 1:
            return {inputs[0]: candidates[0]}
    for array in (*chosen.values(), *plan.keep):
        if array not in names:
            raise targets.missing(array, names, where=f"'{where}'", what="array")
    return chosen


def _check_sizes(members: Sequence[Member], name: str) -> None:
    sizes = {member.name: member.shape[0] for member in members}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"'{array}' {size}" for array, size in sizes.items())
        raise DataError(f"the arrays of '{name}' have different numbers of rows: {shown}.")


def _damaged(name: str, error: Exception) -> DataError:
    kind = ".npy" if name.lower().endswith(".npy") else ".npz"
    how = "numpy.save(FILE, array)" if kind == ".npy" else "numpy.savez(FILE, input_name=array)"
    return DataError(
        f"'{name}' is no whole {kind} file: {first_line(error)}.", hint=f"{how} writes one"
    )
