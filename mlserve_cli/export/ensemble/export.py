"""ensemble.toml → package: its members copied in, wired, run once, proven and sealed as one."""

from __future__ import annotations

import shutil
from pathlib import Path

from msgspec.structs import replace

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.export import processing as declared_processing
from mlserve_cli.export import rows as exported
from mlserve_cli.export.ensemble import defaults, rows
from mlserve_cli.export.ensemble.shapes import Shapes, infer
from mlserve_cli.export.ensemble.source import EnsembleFile, read
from mlserve_cli.export.ensemble.wiring import Wired, wire
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.draft import check_target, create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import versions
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.engines.ensemble import EnsembleEngine
from mlserve_cli.runtime.ensemble import declaration
from mlserve_cli.runtime.ensemble.declaration import ENGINE, FILE, Ensemble, FunctionStep
from mlserve_cli.runtime.manifest import MANIFEST, SERVE, Manifest, StepRecord, check_name
from mlserve_cli.runtime.processing.python import check_alone
from mlserve_cli.runtime.tensors import Tensors, TensorSpec, datatype_of, fixed_batch
from mlserve_cli.runtime.tensors import rows as count_rows
from mlserve_cli.training import source as training_source

DRY_ROWS = 4
"""Enough to tell rows from other sizes; the proofs that follow run more."""


def export(
    path: Path,
    target: Path,
    *,
    name: str | None,
    version: str | None,
    calibration: str | None,
    progress: Progress,
    overwrite: bool,
) -> Package:
    """Make a package of the ensemble that `path` describes.

    Raises `DefinitionError`, `PackageError`, `DataError` or `StepError`; then nothing is left at
    `target`.
    """
    check_target(target, overwrite=overwrite)
    file = read(path)
    progress.stage("reading the members")
    wired = wire(file)
    shapes = infer(wired, file.tensors)
    definition = None
    if file.definition is not None:
        definition = Definition.load(file.beside(file.definition, "the definition"))
    with create(target, overwrite=overwrite) as draft:
        _copy(file, wired, draft.serve)
        declared, labels = defaults.processing(file, wired, draft.serve, progress)
        manifest = replace(
            _manifest(file, wired, name, version),
            inputs=_inputs(wired, shapes),
            processing=declared,
            labels=labels,
        )
        real = rows.real(
            manifest, wired, draft.serve, definition=definition, calibration=calibration
        )
        progress.stage("running the steps")
        ensemble, sample = _run(file, wired, shapes, manifest.inputs, draft.serve, real)
        if real is None:
            progress.say(
                "no rows fit the inputs: the ensemble is tried on made-up ones, and its "
                "statistics say nothing of real ones; --calibration FILE gives some"
            )
            manifest = replace(manifest, sample="synthetic")
        (draft.serve / FILE).write_bytes(ensemble.to_json())
        manifest = replace(manifest, outputs=ensemble.outputs)
        declared_processing.check(manifest, draft.serve)
        if definition is not None:
            training_source.write(draft.source, definition, None)
        progress.stage("proving the package on its rows")
        sealed = finish(draft, manifest, sample)
        Package(draft.path, sealed).add_evidence("export", _evidence(ensemble, wired))
    return Package(target, sealed)


def _copy(file: EnsembleFile, wired: Wired, serve: Path) -> None:
    """Bring in what the members and functions need to be served, and nothing else."""
    for name, package in wired.members.items():
        place = declaration.folder(serve, name)
        place.mkdir(parents=True)
        shutil.copyfile(package.path / MANIFEST, place / MANIFEST)
        for listed in package.manifest.files:
            if listed.startswith(SERVE + "/"):
                (place / listed).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(package.path / listed, place / listed)
    functions: dict[str, list[str]] = {}
    for step in wired.steps:
        if isinstance(step, FunctionStep):
            functions.setdefault(step.file, []).append(step.function)
    for name, wanted in functions.items():
        place = serve / declaration.FUNCTIONS
        place.mkdir(exist_ok=True)
        shutil.copyfile(file.folder / name, place / name)
        check_alone(place / name, file.requirements, functions=wanted)


def _inputs(wired: Wired, shapes: Shapes) -> tuple[TensorSpec, ...]:
    return tuple(spec for spec in shapes.specs(wired.inputs) if spec is not None)


def _run(
    file: EnsembleFile,
    wired: Wired,
    shapes: Shapes,
    inputs: tuple[TensorSpec, ...],
    serve: Path,
    real: list[Tensors] | None,
) -> tuple[Ensemble, list[Tensors]]:
    """Run the steps once: do they fit, and what are the outputs of functions?

    The rows that it ran on come back, made up where there are no real ones.
    """
    ensemble = Ensemble(
        inputs=inputs, outputs=(), steps=wired.steps, requirements=tuple(file.requirements)
    )
    engine = EnsembleEngine(serve / FILE, EngineOptions(), declared=ensemble)
    try:
        sample = real or [exported.synthetic(engine)]
        tried = _first(sample[0], fixed_batch(inputs) or DRY_ROWS)
        found = engine.trace(tried)
        _check_rows(file.outputs, wired, found, rows=count_rows(tried))
        known = shapes.specs(tuple(file.outputs))
        outputs = tuple(
            _output(tensor, spec, found, inputs)
            for tensor, spec in zip(file.outputs, known, strict=True)
        )
    finally:
        engine.close()
    return replace(ensemble, outputs=outputs), sample


def _check_rows(outputs: list[str], wired: Wired, found: Tensors, *, rows: int) -> None:
    """Whatever the steps do in between, the outputs have a row for each row of the batch."""
    makers = {tensor: step.name for step in wired.steps for tensor in step.makes}
    for tensor in outputs:
        array = found[tensor]
        if not array.ndim or array.shape[0] != rows:
            got = f"{array.shape[0]} rows" if array.ndim else "no rows"
            raise StepError(
                f"the output '{tensor}' of step '{makers[tensor]}' has {got} for a batch "
                f"of {rows}.",
                hint="a row of the outputs belongs to each row of the inputs, in their order",
            )


def _first(tensors: Tensors, count: int) -> Tensors:
    return {name: array[:count] if array.ndim else array for name, array in tensors.items()}


def _output(
    tensor: str, spec: TensorSpec | None, found: Tensors, inputs: tuple[TensorSpec, ...]
) -> TensorSpec:
    """An output's signature; a function's is read off what it made."""
    if spec is not None:
        if not spec.has_batch:
            return spec
        # Its rows were counted by another name where a function stands before it.
        return TensorSpec(spec.name, spec.datatype, ("batch", *spec.shape[1:]))
    free = [size for each in inputs for size in each.shape[1:] if isinstance(size, str)]
    array = found[tensor]
    if free:
        raise DefinitionError(
            f"nothing tells the shape of the output '{tensor}', which a function makes of inputs "
            f"whose size '{free[0]}' may differ.",
            hint=f'[tensors.{tensor}] with datatype = "FP32" and shape = ["batch", 3] tells',
        )
    return TensorSpec(tensor, datatype_of(array), ("batch", *array.shape[1:]))


def _manifest(file: EnsembleFile, wired: Wired, name: str | None, version: str | None) -> Manifest:
    members = [package.manifest for package in wired.members.values()]
    if not members:
        raise DefinitionError(
            f"'{file.path}' has no step that runs a package.",
            hint='[[steps]] with package = "PKG" is one',
        )
    licences = {member.licence for member in members}
    joined = None if None in licences else " AND ".join(sorted(map(str, licences)))
    return Manifest(
        name=check_name(name or file.name or _fallback(file.path), "model name"),
        version=check_name(version or file.version or "1", "version"),
        variant="ensemble",
        description=file.description,
        licence=file.licence or joined,
        engine=ENGINE,
        model=FILE,
        inputs=(),
        outputs=(),
        # An int8 member would hide what is not finite, wherever it stands.
        finite_inputs=any(member.finite_inputs for member in members),
        instruction_sets=tuple(
            dict.fromkeys(each for member in members for each in member.instruction_sets)
        ),
        tolerance=max(member.tolerance for member in members),
        lineage=(
            StepRecord(
                step="export",
                parameters={
                    "source": "ensemble",
                    "members": {
                        name: package.manifest.digest for name, package in wired.members.items()
                    },
                },
                libraries=versions("numpy"),
            ),
        ),
    )


def _fallback(path: Path) -> str:
    from mlserve_cli.export.export import valid_name

    return valid_name(path.resolve().parent.name if path.stem == ENGINE else path.stem)


def _evidence(ensemble: Ensemble, wired: Wired) -> dict[str, object]:
    return {
        "source": "ensemble",
        "steps": len(ensemble.steps),
        "members": len(wired.members),
        "packages": {name: str(package.path) for name, package in wired.members.items()},
    }
