"""`mlserve evaluate`: how good a package is, with an interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve_cli.cli import console

if TYPE_CHECKING:
    from mlserve_cli.evaluate.report import Evaluated


def command(
    package: Annotated[Path, typer.Argument(metavar="PKG", help="The package to evaluate.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="Rows with targets: a folder, .npz, .csv, .json, .jsonl, .parquet or "
            "file.py:function. Without it: the definition's evaluation().",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "--column",
            metavar="NAME",
            help="The column of the data with the targets.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="PKG",
            help="For data without targets: count how often both packages decide alike.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure a package's metric on data that it never saw, with its 95 % interval."""
    from mlserve_cli.evaluate.report import measure

    if target is not None and data is None:
        raise typer.BadParameter("it names a column of --data FILE.", param_hint="--target")
    with console.progress() as progress:
        found = measure(package, data=data, target=target, reference=reference, progress=progress)
    if as_json:
        console.print_json(found.document())
        return
    _print(found)
    console.next_command(f"mlserve bench {package}")


def _print(found: Evaluated) -> None:
    from rich.table import Table

    table = Table(
        "package", "metric", "value", "95 % interval", "rows", caption=f"on {found.source}"
    )
    table.caption_justify = "left"
    table.add_row(*found.row())
    out = console.stdout()
    out.print(table)
    if found.evaluation.nan_rows:
        console.note(
            f"note: for {found.evaluation.nan_rows} of {found.evaluation.n} rows the model "
            "answers NaN; they count as wrong"
        )
    if found.evaluation.neighbours is not None:
        out.print(found.evaluation.neighbours.sentence(), highlight=False)
    doubt = found.evaluation.doubt()
    if doubt:
        console.note(f"note: {doubt}")
