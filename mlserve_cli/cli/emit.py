"""`mlserve emit`: a server folder that runs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlserve_cli.cli import console


def command(
    packages: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PKG…", help="The packages to serve.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The folder to write."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a server folder that is there, all of it.")
    ] = False,
    refresh: Annotated[
        Path | None,
        typer.Option(
            "--refresh",
            metavar="DIR",
            help="Renew mlserve_runtime/ in a server folder and leave all else as it is.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write a server folder: a short server.py, its settings, the packages and their proofs."""
    if refresh is not None:
        if packages or output or force:
            raise typer.BadParameter("--refresh DIR stands alone.")
        _refresh(refresh, as_json=as_json)
        return
    if not packages:
        raise typer.BadParameter("give one package or more.")
    if output is None:
        raise typer.BadParameter("say where the folder goes, with -o DIR.")
    from mlserve_cli.emit.folder import emit

    with console.progress() as progress:
        emitted = emit(packages, output, overwrite=force, progress=progress)
    if as_json:
        console.print_json(emitted.document())
        return
    out = console.stdout()
    for package in emitted.packages:
        manifest = package.manifest
        out.print(f"{manifest.name} {manifest.version}  {manifest.variant}", markup=False)
        sizing = emitted.settings.sizing[manifest.name]
        for name, reason in sizing.reasons.items():
            out.print(f"  {name}: {reason}", markup=False)
    out.print(f"written: {emitted.path}", markup=False)
    console.next_command(f"mlserve up {emitted.path}")


def _refresh(folder: Path, *, as_json: bool) -> None:
    from mlserve_cli.emit.runtime_copy import refresh

    renewed = refresh(folder)
    if as_json:
        console.print_json({"path": str(folder), "before": renewed.before, "after": renewed.after})
        return
    console.stdout().print(
        f"mlserve_runtime in {folder}: {renewed.before} → {renewed.after}", markup=False
    )
    console.next_command(f"mlserve up {folder}")
