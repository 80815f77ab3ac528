"""A new folder with a model definition, copied from a template."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlserve_cli.errors import DefinitionError
from mlserve_cli.package import templates
from mlserve_cli.package.draft import writing

TEMPLATES = ("image", "text", "table", "onnx")


def start(folder: Path, template: str) -> list[Path]:
    """Copy the template's files into `folder`, which may exist if it is empty; return them.

    Raises `DefinitionError` when there is no such template or the folder holds something.
    """
    if template not in TEMPLATES:
        raise DefinitionError(
            f"there is no template '{template}'.", hint=f"it can be {', '.join(TEMPLATES)}"
        )
    if folder.exists() and not folder.is_dir():
        raise DefinitionError(f"'{folder}' is a file.", hint="name a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise DefinitionError(
            f"'{folder}' is not empty.", hint="name a new folder; nothing is ever overwritten"
        )
    origin = templates.folder(f"definition/{template}")
    written = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(origin.iterdir()):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
                written.append(folder / path.name)
    return written
