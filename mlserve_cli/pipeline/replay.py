"""`mlserve run`: a recipe made again, from cache where a step was made before."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlserve_cli.package import step as steps
from mlserve_cli.package.draft import check_apart, check_target, copy
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline import cache as caches
from mlserve_cli.pipeline import steps as table
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.recipe import Recipe
from mlserve_cli.runtime.manifest import MANIFEST
from mlserve_cli.search.candidate import StepChoice


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
    check_apart(target, Path(recipe.source))
    folder = cache or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    made = cached = 0
    package, fresh = _source(recipe, folder, progress)
    made, cached = made + fresh, cached + (not fresh)
    for document in recipe.steps:
        choice = StepChoice.of(document)
        cases = Cases.of(
            package, data=recipe.data, calibration=recipe.calibration, target=recipe.target
        )
        rows = cases.calibration(package)
        place = folder / caches.key(package, choice, rows)
        kept = caches.find(place) if caches.repeats(choice) else None
        if kept is not None:
            progress.say(f"{choice.step}: from the cache")
            package, cached = kept, cached + 1
            continue
        package = steps.run(
            table.build(choice, rows), package, place, sample=rows, progress=progress,
            overwrite=True,
        )  # fmt: skip
        made += 1
    copy(package.path, target)
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
