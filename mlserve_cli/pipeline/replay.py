"""`mlserve run`: a recipe made again, from cache where a step was made before.

A step's result is kept under the hash of all that decides it: its parent's digest, its parameters,
the rows it is made with and the versions of the libraries that make it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlserve_cli import __version__
from mlserve_cli.errors import MlserveError
from mlserve_cli.package import step as steps
from mlserve_cli.package.draft import check_target, hidden_beside, move, writing
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline import steps as table
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.recipe import Recipe
from mlserve_cli.runtime.manifest import MANIFEST
from mlserve_cli.runtime.tensors import Tensors
from mlserve_cli.search.candidate import StepChoice

_LIBRARIES = ("onnx", "onnxruntime", "torch", "numpy", "nncf", "neural-compressor-pt")


@dataclass(frozen=True, slots=True)
class Replayed:
    """The package that came out, how many steps were made and how many were in the cache."""

    package: Package
    made: int
    cached: int
    same: bool | None  # whether its digest is the recipe's; None where that names none


def replay(
    recipe: Recipe,
    target: Path,
    *,
    progress: Progress,
    overwrite: bool = False,
    cache: Path | None = None,
) -> Replayed:
    """Make the package of a recipe at `target`. Raises what its steps raise."""
    check_target(target, overwrite=overwrite)
    folder = cache or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    made = cached = 0
    package, fresh = _source(recipe, folder, progress)
    made, cached = made + fresh, cached + (not fresh)
    for document in recipe.steps:
        choice = StepChoice(
            step=str(document["step"]),
            parameters={key: value for key, value in document.items() if key != "step"},
        )
        cases = Cases.of(
            package, data=recipe.data, calibration=recipe.calibration, target=recipe.target
        )
        rows = cases.calibration(package)
        place = folder / _key(package, choice.document(), rows)
        kept = _open(place)
        if kept is not None:
            progress.say(f"{choice.step}: from the cache")
            package, cached = kept, cached + 1
            continue
        package = steps.run(
            table.build(choice, rows), package, place, sample=rows, progress=progress,
            overwrite=True,
        )  # fmt: skip
        made += 1
    with writing(target), hidden_beside(target) as hidden:
        shutil.copytree(package.path, hidden)
        move(hidden, target)
    return Replayed(
        package=Package(target, package.manifest),
        made=made,
        cached=cached,
        same=package.manifest.digest == recipe.digest if recipe.digest else None,
    )


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where results of steps are kept (XDG Base Directory Specification)."""
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mlserve" / "steps"


def _source(recipe: Recipe, folder: Path, progress: Progress) -> tuple[Package, bool]:
    """The package that the recipe starts from, and whether it had to be made."""
    from mlserve_cli.export.export import export

    path = Path(recipe.source)
    if (path / MANIFEST).is_file():
        return Package.open(path), False
    place = folder / f"export-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    # A definition may read files of its own, which nothing here sees: it is always exported anew.
    return (
        export(
            recipe.source,
            place,
            calibration=recipe.calibration,
            progress=progress,
            overwrite=True,
        ),
        True,
    )


def _open(place: Path) -> Package | None:
    try:
        return Package.open(place)
    except MlserveError:
        return None


def _key(parent: Package, document: Mapping[str, Any], rows: Any) -> str:
    """The name under which the result of a step is kept."""
    hashed = hashlib.sha256()
    facts = {
        "parent": parent.manifest.digest,
        "step": document,
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "mlserve": __version__,
    }
    hashed.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for batch in rows or ():
        _add(hashed, batch)
    return hashed.hexdigest()


def _add(hashed: Any, batch: Tensors) -> None:
    for name, array in sorted(batch.items()):
        hashed.update(f"{name} {array.dtype} {array.shape}".encode())
        if array.dtype.hasobject:
            hashed.update(repr(array.tolist()).encode())
        else:
            hashed.update(array.tobytes())


def _version(distribution: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
