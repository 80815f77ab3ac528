"""Engines execute a package's model. The table names them; nothing is imported before use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from ..errors import EngineError, MlserveError
from ..manifest import SERVE, Manifest
from .engine import Engine, EngineOptions

__all__ = ["ENGINES", "Engine", "EngineOptions", "load", "open_package"]

ENGINES: Mapping[str, str] = {
    "onnxruntime": ".onnxruntime:OnnxRuntimeEngine",
    "openvino": ".openvino:OpenVinoEngine",
}
"""Name → `module:Class`, relative to this folder; or the user's own `pkg.mod:Class`."""


def load(name: str, model: Path, options: EngineOptions | None = None) -> Engine:
    """Load `model` with the engine of that name, or with the user's own `pkg.mod:Class`.

    Raises `EngineError` when there is no such engine, it is not installed, or it refuses the file.
    """
    target = ENGINES.get(name, name)
    module_name, separator, attribute = target.partition(":")
    if not separator:
        raise EngineError(
            f"'{name}' is no engine.",
            hint=f"it can be {', '.join(ENGINES)}, or your own 'package.module:Class'",
        )
    try:
        module = importlib.import_module(module_name, package=__name__)
    except (ImportError, ValueError) as error:  # ":Class" names no module at all
        raise EngineError(
            f"the engine '{name}' cannot be imported: {error}.",
            hint="'mlserve doctor' says what to install",
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise EngineError(f"the engine '{name}' cannot be found: {module_name} has no {attribute}.")
    try:
        engine: Engine = factory(model, options or EngineOptions())
    except MlserveError:
        raise
    except Exception as error:  # a user's own engine may raise anything
        raise EngineError(
            f"the engine '{name}' cannot load '{model}': {type(error).__name__}: {error}."
        ) from error
    return engine


def open_package(package: Path, manifest: Manifest, options: EngineOptions | None = None) -> Engine:
    """Load the model of a package with the engine that its manifest names."""
    return load(manifest.engine, package / SERVE / manifest.model, options)
