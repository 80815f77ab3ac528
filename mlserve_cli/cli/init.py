"""`mlserve init`: a commented model definition that works as it is, to be made one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlserve_cli.cli import console


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    template: Annotated[
        str,
        typer.Option("--template", "-t", help="What the model takes: image, text, table, onnx."),
    ] = "table",
) -> None:
    """Write a model definition that exports, evaluates and serves as it stands."""
    from mlserve_cli.export.start import start

    written = start(folder, template)
    for path in written:
        console.stdout().print(str(path), markup=False, highlight=False)
    console.next_command(
        f"mlserve export {folder / 'model.py'} -o packages/{folder.resolve().name}"
    )
