"""A ready file that is no ONNX → the package's model, byte for byte.

That is a `.pt2` file for the engine torch, or whatever the user's own engine loads.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mlserve_cli.errors import StepError
from mlserve_cli.export.goal import Goal
from mlserve_cli.export.origin import Origin
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import archive


def write(file: Path, folder: Path, goal: Goal, progress: Progress) -> Origin:
    """Copy `file` into `folder` and load it. Raises `EngineError` where its engine cannot."""
    progress.stage("checking the model")
    if not goal.own:
        _check(file, goal)
        goal = Goal("torch")
    target = folder / f"model{file.suffix}"
    shutil.copyfile(file, target)
    options = engines.EngineOptions()
    variant = "native"
    libraries: tuple[str, ...] = ()
    if not goal.own:
        compiled = archive.read(target).compiled
        device = compiled.device if compiled else "cpu"
        options = engines.EngineOptions(device=device)
        variant, libraries = ("aoti" if compiled else "torch"), ("torch",)
    engines.load(goal.engine, target, options).close()
    return Origin(
        kind=file.suffix.removeprefix(".") or "file",
        variant=variant,
        parameters={"source": file.suffix.removeprefix(".") or "file"},
        libraries=libraries,
        engine=goal.engine,
        model=target.name,
    )


def _check(file: Path, goal: Goal) -> None:
    if goal.compiled and archive.read(file).compiled is None:
        raise StepError(
            f"'{file}' is a program, and only a definition can be compiled.",
            hint="return its module from model() of a definition; or leave --engine out",
        )
