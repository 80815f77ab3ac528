"""recipe.toml: which steps in which order with which parameters make a package of a source.

schema = 1
source = "model.py"            relative to the recipe
digest = "sha256:…"            of the package that came of it
max_drop = 0.5                 what was allowed
[data]                         rows, where they are not the definition's own
evaluation = "test.csv"
[serving]                      how it was run fastest where it was made; for a person to read
threads = 2
[[steps]]
step = "quantize"
method = "static"
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from mlserve_cli.errors import MlserveError
from mlserve_cli.package.contents import split
from mlserve_cli.package.draft import hidden_beside, writing
from mlserve_cli.pipeline.cache import FILES

SCHEMA = 1


class RecipeError(MlserveError):
    """A recipe cannot be read, or says something that there is not."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, as it is written down. Paths are as they were given, or relative to the file."""

    source: str
    steps: tuple[dict[str, Any], ...] = ()
    digest: str = ""
    data: str | None = None
    calibration: str | None = None
    target: str | None = None
    max_drop: float | None = None
    serving: dict[str, Any] = {}


def beside(target: Path) -> Path:
    """Where the recipe of a package lies."""
    return target.with_name(target.name + ".recipe.toml")


def write(recipe: Recipe, path: Path) -> None:
    """Write it, whole or not at all, with its paths relative to where it lies."""
    folder = path.parent.resolve()
    lines = [
        "# How this package was made. 'mlserve run' makes it again, with the same digest.",
        f"schema = {SCHEMA}",
        f"source = {_toml(_relative(recipe.source, folder))}",
    ]
    if recipe.digest:
        lines.append(f"digest = {_toml(recipe.digest)}")
    if recipe.max_drop is not None:
        lines.append(f"max_drop = {recipe.max_drop}")
    named = {"evaluation": recipe.data, "calibration": recipe.calibration}
    if any(named.values()):
        lines += ["", "[data]"]
        lines += [
            f"{name} = {_toml(_relative(value, folder))}"
            for name, value in named.items()
            if value is not None
        ]
        if recipe.target is not None:
            lines.append(f"target = {_toml(recipe.target)}")
    if recipe.serving:
        lines += ["", "[serving]"]
        lines += [f"{key} = {_toml(value)}" for key, value in recipe.serving.items()]
    for step in recipe.steps:
        lines += ["", "[[steps]]"]
        for key, value in step.items():
            is_path = key in FILES and isinstance(value, str)
            lines.append(f"{key} = {_toml(_relative(value, folder) if is_path else value)}")
    with writing(path), hidden_beside(path) as hidden:
        hidden.write_text("\n".join(lines) + "\n", encoding="utf-8")
        hidden.replace(path)


def read(path: Path) -> Recipe:
    """Read it; its paths become usable from here. Raises `RecipeError`."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"'{path}' is no recipe: {error}.") from error
    schema = document.pop("schema", None)
    if schema != SCHEMA:
        raise RecipeError(
            f"the schema of '{path}' is {schema!r}, and {SCHEMA} is known.",
            hint="'mlserve optimize' writes recipes",
        )
    data = document.pop("data", {})
    known = {"source", "digest", "max_drop", "steps", "serving"}
    unknown = [*(set(document) - known), *(set(data) - {"evaluation", "calibration", "target"})]
    if unknown:
        raise RecipeError(
            f"'{path}' has '{sorted(unknown)[0]}', which no recipe has.",
            hint="it can have source, digest, max_drop, [data], [serving] and [[steps]]",
        )
    try:
        recipe = msgspec.convert(
            {
                **document,
                "data": data.get("evaluation"),
                "calibration": data.get("calibration"),
                "target": data.get("target"),
            },
            Recipe,
        )
    except msgspec.ValidationError as error:
        raise RecipeError(f"'{path}' is no recipe: {error}.") from error
    if recipe.max_drop is not None and not recipe.max_drop >= 0:  # of NaN all comparisons fail
        raise RecipeError(
            f"max_drop of '{path}' is {recipe.max_drop}.", hint="it is a number, 0 or more"
        )
    for number, step in enumerate(recipe.steps, start=1):
        if not isinstance(step.get("step"), str):
            raise RecipeError(f"step {number} of '{path}' has no name: step = \"quantize\".")
    folder = path.parent
    return msgspec.structs.replace(
        recipe,
        source=_found(recipe.source, folder),
        data=_found(recipe.data, folder),
        calibration=_found(recipe.calibration, folder),
        steps=tuple(
            {key: _found(value, folder) if key in FILES else value for key, value in step.items()}
            for step in recipe.steps
        ),
    )


def _relative(text: str, folder: Path) -> str:
    """A path relative to the recipe; what is no file that is there stays as it is."""
    file, function = split(text)
    path = Path(file)
    if not path.exists():
        return text
    return os.path.relpath(path.resolve(), folder) + function


def _found(text: Any, folder: Path) -> Any:
    if not isinstance(text, str):
        return text
    file, function = split(text)
    inside = folder / file
    return str(inside) + function if inside.exists() else text


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
