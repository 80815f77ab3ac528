"""Real rows to prove an ensemble with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from mlserve_cli.errors import DataError
from mlserve_cli.export import rows as exported
from mlserve_cli.export.ensemble.wiring import Wired
from mlserve_cli.package.definition import Definition
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.ensemble.declaration import PackageStep
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import build
from mlserve_cli.runtime.tensors import Tensors, rows


def real(
    manifest: Manifest,
    wired: Wired,
    serve: Path,
    *,
    definition: Definition | None,
    calibration: str | None,
) -> list[Tensors] | None:
    """The rows of --calibration, of the definition, or the golden ones of the members.

    None where none of them has a row for every input. Raises `DataError` or `DefinitionError`.
    """
    names = tuple(spec.name for spec in manifest.inputs)
    found: Iterable[Tensors]
    if calibration is not None:
        from mlserve_cli.data.source import read

        # Of the processing, what reads: the outputs are not known yet.
        reads = replace(manifest, processing=replace(manifest.processing, output=None))
        processor = build(reads, serve)
        found = (batch.inputs for batch in read(calibration, manifest, processor))
        what = calibration
    elif definition is not None and definition.has("calibration"):
        found, what = exported.calibration(definition, names), "calibration()"
    else:
        golden_rows = _golden(wired)
        if golden_rows is None:
            return None
        found, what = iter([golden_rows]), "the members' golden rows"
    kept = list(
        exported.some(exported.fitted(found, manifest.inputs, model=manifest.name, what=what))
    )
    if not kept:
        raise DataError(f"{what} has no rows.")
    return kept


def _golden(wired: Wired) -> Tensors | None:
    """For each input the rows that a member which takes it was proven with."""
    found: Tensors = {}
    for step in wired.steps:
        if not isinstance(step, PackageStep):
            continue
        package = wired.members[step.member]
        if package.manifest.sample != "real":
            continue
        inputs = golden.read(package.serve).inputs
        for name, tensor in step.inputs.items():
            if tensor in wired.inputs:
                found.setdefault(tensor, inputs[name])
    if set(found) != set(wired.inputs):
        return None
    count = min(rows({name: array}) for name, array in found.items())
    return {name: found[name][:count] for name in wired.inputs}
