"""Source → package: recognize it, write it as ONNX, compare it, complete it, prove it, seal it."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from mlserve_cli.errors import DataError, DefinitionError, MissingExtra, MlserveError
from mlserve_cli.export import (
    conversion,
    estimator,
    hugging_face,
    memory,
    onnx_file,
    processing,
    program_file,
    ready_file,
    rows,
    tensorflow,
    torch_module,
    trained,
)
from mlserve_cli.export import imported as imports
from mlserve_cli.export import weights as state_dict
from mlserve_cli.export.goal import Goal
from mlserve_cli.export.origin import Origin
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.draft import Draft, check_target, create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress, Silent
from mlserve_cli.package.step import versions
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.manifest import Manifest, StepRecord, check_name
from mlserve_cli.runtime.processing import build
from mlserve_cli.runtime.processing.declaration import Processing
from mlserve_cli.runtime.tensors import Tensors
from mlserve_cli.training import source as training_source

_EXTRAS = {
    "torch": "torch",
    "onnxscript": "torch",
    "safetensors": "torch",
    "sklearn": "sklearn",
    "skl2onnx": "sklearn",
    "PIL": "image",
    "xgboost": "boosting",
    "lightgbm": "boosting",
    "catboost": "boosting",
    "pandas": "boosting",
}


def export(
    source: str,
    target: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    calibration: str | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    engine: str | None = None,
    device: str = "cpu",
    trust: bool = False,
    fuse: bool = False,
    weights: Path | None = None,
    tf_python: str | None = None,
) -> Package:
    """Make a package of a source at `target`.

    `source` is a `.py` file, an `.onnx` or `.pt2` file, a Hugging Face folder, a TensorFlow model
    (a SavedModel, `.keras`, `.h5`), an ensemble's `.toml` file, an estimator's file of those that
    `trained` reads, or `module:object`, which is an estimator or a torch module.
    `name` and `version` win over the definition's NAME and VERSION. `calibration` names real rows
    (a folder, `.npz`, `.csv`, `.jsonl` or `file.py:function`), in place of the definition's own.
    `trust` loads pickles, which run what their author wrote.
    `engine` is what will run it: a name of `engines.ENGINES`, "torch-aoti" (compiled for `device`,
    "cpu" or "cuda"), or the user's own class, which takes a ready file of any kind.
    `fuse` makes attention one operator of ONNX Runtime's.
    `weights` is a state dict's file for the network of a definition. `tf_python` is a Python with
    TensorFlow and tf2onnx.
    How far the package agrees with its source is kept as evidence of the kind "export".

    Raises `DefinitionError`, `StepError`, `DataError`, `MissingExtra`, `EngineError` or
    `PackageError`; then nothing is left at `target`.
    """
    progress = progress or Silent()
    goal = Goal.named(engine, device, fuse=fuse)
    path = recognize(source, own_engine=goal.own)
    is_object = trained.is_object(source)
    if weights is not None and not (is_object or path.suffix == ".py"):
        raise DefinitionError(
            f"--weights are for the network of a definition, and '{source}' is none.",
            hint="leave them out, or give the definition that builds the network",
        )
    if path.suffix == ".toml" and not goal.own and not is_object:
        if engine is not None or device != "cpu":
            raise DefinitionError(
                f"'{source}' is an ensemble, whose members have engines of their own.",
                hint="leave --engine and --device out; export the members for other engines",
            )
        from mlserve_cli.export.ensemble.export import export as export_ensemble

        return export_ensemble(
            path,
            target,
            name=name,
            version=version,
            calibration=calibration,
            progress=progress,
            overwrite=overwrite,
        )
    check_target(target, overwrite=overwrite)
    if not is_object and trained.is_file(path):
        trained.check_trust(path, trust=trust)
    for text, what in ((name, "model name"), (version, "version")):
        if text is not None:
            check_name(text, what)
    if goal.own or is_object:
        pass  # of the one nobody knows what it takes, the other is in memory already
    elif path.suffix in (".onnx", ".pt2"):
        memory.require(path, torch=path.suffix == ".pt2")
    elif path.is_dir() and not tensorflow.is_source(path):
        memory.require(path, torch=True)
    value = trained.load_object(source) if is_object else None
    imported = is_object and imports.is_torch(value)
    alone = not imported and not goal.own and (is_object or trained.is_file(path))
    with create(target, overwrite=overwrite) as draft:
        definition: Definition | None = None
        if imported or path.suffix == ".py":
            made = imports.definition(source, value) if imported else None
            definition, origin = _write(path, draft.serve, goal, progress, made, weights)
        elif alone:
            goal.check_onnx("an estimator")
            progress.stage("loading the model")
            given = trained.given(
                source, value=value, calibration=calibration, trust=trust, progress=progress
            )
            origin = estimator.write(given, draft.serve / goal.file, progress)
            origin = dataclasses.replace(origin, engine=goal.engine)
        elif tensorflow.is_source(path) and not goal.own:
            origin = tensorflow.write(path, draft.serve, goal, progress, tf_python)
        elif path.is_dir():
            origin = hugging_face.write(path, draft.serve, goal, progress)
        else:
            origin = _ready(path, draft.serve, goal, progress)
        sealed = _complete(
            draft,
            _manifest(path, definition, origin, name, version),
            definition,
            origin,
            calibration=calibration,
            progress=progress,
            keep=not imported,
        )
        Package(draft.path, sealed).add_evidence("export", _evidence(origin))
    return Package(target, sealed)


def recognize(source: str, *, own_engine: bool = False) -> Path:
    """The file that `source` names. Raises `DefinitionError` for what cannot be exported."""
    if trained.is_object(source):
        return Path(source.rpartition(":")[2])
    path = Path(source)
    allowed = (
        "a model definition (.py), an ONNX file (.onnx), a torch.export program (.pt2), an "
        f"estimator's file ({', '.join(trained.SUFFIXES)}), module:object, a Hugging Face folder, "
        "a TensorFlow model or an ensemble (.toml) can be exported; with --engine "
        "package.module:Class any file"
    )
    if path.is_dir() and (hugging_face.is_folder(path) or tensorflow.is_source(path)):
        return path
    if path.is_file() and tensorflow.is_source(path):
        return path
    if path.is_dir():
        inside = path / "ensemble.toml"
        if not inside.is_file():
            inside = path / "model.py"
        hint = f"mlserve export {inside}" if inside.is_file() else allowed
        raise DefinitionError(f"'{source}' is a folder.", hint=hint)
    if not path.exists():
        raise DefinitionError(
            f"'{source}' does not exist.", hint="'mlserve init DIR' writes a model definition"
        )
    ready = path.suffix in (".py", ".onnx", ".pt2", ".toml")
    if not ready and not own_engine and not trained.is_file(path):
        suffix = path.suffix or "no suffix"
        raise DefinitionError(f"'{source}' cannot be exported: it is {suffix}.", hint=allowed)
    return path


def valid_name(text: str) -> str:
    """A model name made of any text: what cannot stand in a URL becomes '-'."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")
    return cleaned[:128].rstrip("-") or "model"


def _ready(file: Path, folder: Path, goal: Goal, progress: Progress) -> Origin:
    """A model that somebody else wrote: ONNX, or a file that its engine takes as it is."""
    if file.suffix == ".pt2" and program_file.convertible(file, goal):
        return program_file.write(file, folder / goal.file, goal, progress)
    if file.suffix == ".pt2" or (goal.own and file.suffix != ".onnx"):
        return ready_file.write(file, folder, goal, progress)
    goal.check_onnx("an ONNX file")
    origin = onnx_file.write(file, folder / goal.file, progress, fuse=goal.fuse)
    return dataclasses.replace(origin, engine=goal.engine)


def _write(
    path: Path,
    folder: Path,
    goal: Goal,
    progress: Progress,
    made: Definition | None,
    weights: Path | None,
) -> tuple[Definition, Origin]:
    """Import the definition and export what its model() returns, whatever kind it is of."""
    progress.stage("loading the model")
    with _naming_extras():
        definition = made or Definition.load(path)
        bare = weights is not None and definition.has("architecture")
        model = definition.function("architecture" if bare else "model")()
    kinds = {f"{each.__module__}.{each.__qualname__}" for each in type(model).__mro__}
    torch_module_given = "torch.nn.modules.module.Module" in kinds
    if weights is not None:
        if not torch_module_given:
            raise DefinitionError(
                f"--weights are for a torch module, and model() returns {type(model).__name__}."
            )
        state_dict.load(model, weights)
    if torch_module_given:
        return definition, torch_module.write(definition, model, folder, progress, goal)
    if conversion.is_estimator(model):
        goal.check_onnx("a scikit-learn estimator")
        given = estimator.of_definition(definition, model)
        origin = estimator.write(given, folder / goal.file, progress)
        return definition, dataclasses.replace(origin, engine=goal.engine)
    if isinstance(model, (str, Path)):
        file = definition.path.parent / model
        if not file.is_file():
            raise DefinitionError(
                f"model() of '{definition.path}' returns '{model}', which is no file.",
                hint="return the path of an .onnx or .pt2 file, relative to the definition",
            )
        return definition, _ready(file, folder, goal, progress)
    raise DefinitionError(
        f"model() of '{definition.path}' returns {type(model).__name__}.",
        hint="return a torch.nn.Module, a fitted estimator of scikit-learn, XGBoost, LightGBM or "
        "CatBoost, or an ONNX file's path",
    )


def _complete(
    draft: Draft,
    manifest: Manifest,
    definition: Definition | None,
    origin: Origin,
    *,
    calibration: str | None,
    progress: Progress,
    keep: bool,
) -> Manifest:
    """Everything beside the model: processing, rows, `source/`; then the proofs and the seal.

    keep: whether the definition is one file, which can travel in `source/` and be imported alone.
    """
    engine = engines.open_package(draft.path, manifest)
    try:
        manifest = replace(manifest, inputs=engine.inputs, outputs=engine.outputs)
        if definition is not None:
            processing.copy_files(definition, manifest.processing, draft.serve)
        manifest = replace(manifest, processing=processing.with_input(manifest, origin.input))
        real = _rows(draft, manifest, definition, origin, calibration)
        if real is None:
            progress.say(
                "no --calibration was given: the model is tried on made-up rows, "
                "and its statistics say nothing of real ones"
            )
            manifest = replace(manifest, sample="synthetic")
            real = [origin.made_up or rows.synthetic(engine)]
        elif manifest.processing.output is None and manifest.processing.python is None:
            manifest = replace(
                manifest, processing=processing.with_output(manifest, origin.output, engine, real)
            )
    finally:
        engine.close()
    processing.check(manifest, draft.serve)
    if definition is not None and keep:
        progress.stage("keeping what further training needs")
        training_source.write(draft.source, definition, origin.module)
    elif origin.write_source is not None:
        progress.stage("keeping what further training needs")
        try:
            origin.write_source(draft.source)
        except MlserveError as error:
            shutil.rmtree(draft.source, ignore_errors=True)
            draft.source.mkdir()
            progress.say(f"the package cannot be trained further: {error.message}")
    progress.stage("proving the package on its rows")
    return finish(draft, manifest, real)


def _manifest(
    path: Path, definition: Definition | None, origin: Origin, name: str | None, version: str | None
) -> Manifest:
    """What the definition says; the signature and the proofs come later."""
    value = definition.value if definition else lambda _, default: default
    place = Path(os.path.abspath(path))  # noqa: PTH100  (a link's own name, not its target's)
    fallback = place.parent.name if definition else place.name if place.is_dir() else place.stem
    licence = value("LICENCE", None)
    return Manifest(
        name=check_name(str(name or value("NAME", None) or valid_name(fallback)), "model name"),
        version=check_name(str(version or value("VERSION", "1")), "version"),
        variant=origin.variant,
        description=str(value("DESCRIPTION", "")),
        licence=None if licence is None else str(licence),
        engine=origin.engine,
        model=origin.model,
        inputs=(),
        outputs=(),
        processing=definition.processing if definition else origin.processing or Processing(),
        labels=(definition.labels if definition else ()) or origin.labels,
        lineage=(
            StepRecord(
                step="export",
                parameters=dict(origin.parameters),
                libraries=versions(*origin.libraries),
            ),
        ),
    )


def _rows(
    draft: Draft,
    manifest: Manifest,
    definition: Definition | None,
    origin: Origin,
    calibration: str | None,
) -> list[Tensors] | None:
    """Real rows as the signature wants them: --calibration, calibration(), sample(), or None."""
    names = tuple(spec.name for spec in manifest.inputs)
    found: Iterable[Tensors]
    if calibration is not None:
        from mlserve_cli.data.source import read

        processor = build(manifest, draft.serve)
        found, what = (
            (batch.inputs for batch in read(calibration, manifest, processor, targets=False)),
            calibration,
        )
    elif definition is not None and definition.has("calibration"):
        found, what = rows.calibration(definition, names), "calibration()"
    elif origin.sample is not None:
        found, what = [origin.sample], "sample()"
    elif definition is not None and definition.has("sample"):
        found = [rows.by_name(definition.function("sample")(), names, what="sample()")]
        what = "sample()"
    else:
        return None
    kept = list(rows.some(rows.fitted(found, manifest.inputs, model=manifest.name, what=what)))
    if not kept:
        raise DataError(f"{what} has no rows.")
    return kept


def _evidence(origin: Origin) -> dict[str, Any]:
    """How far the package agrees with its source, for a person and for `--json`."""
    if origin.parity is None:
        return {"source": origin.kind}
    facts = asdict(origin.parity)
    return {"source": origin.kind, **facts, "lines": [asdict(line) for line in origin.parity.lines]}


@contextmanager
def _naming_extras() -> Iterator[None]:
    """A definition that imports what an extra brings: name the extra, not a missing module."""
    try:
        yield
    except DefinitionError as error:
        cause = error.__cause__
        missing = (cause.name or "").partition(".")[0] if isinstance(cause, ImportError) else ""
        if missing in _EXTRAS:
            raise MissingExtra(
                f"the definition needs '{missing}', and it is not installed.",
                hint=f"pip install 'mlserve-cli[{_EXTRAS[missing]}]'",
            ) from error
        raise
