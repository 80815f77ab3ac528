"""Engines execute a package's model. The table names them; nothing is imported before use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..errors import EngineError, MlserveError
from ..manifest import SERVE, Manifest
from .engine import Engine, EngineOptions, StepTimes

__all__ = ["ENGINES", "Engine", "EngineOptions", "StepTimes", "load", "open_package"]

ENGINES: Mapping[str, str] = {
    "onnxruntime": ".onnxruntime:OnnxRuntimeEngine",
    "openvino": ".openvino:OpenVinoEngine",
    "torch": ".torch:TorchEngine",
    "ensemble": ".ensemble:EnsembleEngine",
}
"""Name → `module:Class`, relative to this folder; or the user's own `pkg.mod:Class`."""


def load(name: str, model: Path, options: EngineOptions | None = None) -> Engine:
    """Load `model` with the engine of that name, or with the user's own `pkg.mod:Class`.

    Raises `EngineError` when there is no such engine, it is not installed, or it refuses the file.
    """
    factory = find(name)
    try:
        engine: Engine = factory(model, options or EngineOptions())
    except MlserveError:
        raise
    except (Exception, SystemExit) as error:  # a user's own engine may raise anything
        raise EngineError(
            f"the engine '{name}' cannot load '{model}': {type(error).__name__}: {error}."
        ) from error
    return engine


def find(name: str) -> Any:
    """The class of that name, imported. Raises `EngineError` when there is none."""
    target = ENGINES.get(name, name)
    module_name, separator, attribute = target.partition(":")
    if not separator:
        raise EngineError(
            f"'{name}' is no engine.",
            hint=f"it can be {', '.join(ENGINES)}, or your own 'package.module:Class'",
        )
    try:
        module = importlib.import_module(module_name, package=__name__)
    except (Exception, SystemExit) as error:  # no module at all; or a user's, which raises anything
        kind = "" if isinstance(error, ImportError | ValueError) else f"{type(error).__name__}: "
        raise EngineError(
            f"the engine '{name}' cannot be imported: {kind}{error}.",
            hint="'mlserve doctor' says what to install"
            if name in ENGINES
            else "Python has to find the module: set PYTHONPATH to its folder, or install it",
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise EngineError(f"the engine '{name}' cannot be found: {module_name} has no {attribute}.")
    return factory


def devices(package: Path, manifest: Manifest) -> tuple[str, ...]:
    """Where a package's model can run on this machine, best first: of "cpu" and "cuda".

    An engine that says nothing of devices runs on the CPU. Raises `EngineError`.
    """
    says = getattr(find(manifest.engine), "devices", None)
    found: tuple[str, ...] = tuple(says(package / SERVE / manifest.model)) if says else ()
    return found or ("cpu",)


def open_package(package: Path, manifest: Manifest, options: EngineOptions | None = None) -> Engine:
    """Load the model of a package with the engine that its manifest names.

    It is prepared for no batch that the manifest rules out; a model that was compiled for a GPU
    runs there whatever the options say, and one that was proven in bf16 computes in it.
    """
    options = options or EngineOptions()
    if manifest.precision != options.precision and manifest.precision != "fp32":
        options = msgspec.structs.replace(options, precision=manifest.precision)
    only = manifest.fixed_batch or manifest.batch.max_batch
    if only and options.batches:
        options = msgspec.structs.replace(options, batches=(only,))
    allowed = devices(package, manifest)
    if options.device.partition(":")[0] not in allowed:
        options = msgspec.structs.replace(options, device=allowed[0])
    return load(manifest.engine, package / SERVE / manifest.model, options)
