"""`mlserve predict`: a file of rows in, a file of answers out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlserve_cli.cli import console
from mlserve_cli.cli.threads import Threads


def command(
    package: Annotated[Path, typer.Argument(metavar="PKG", help="The package to predict with.")],
    source: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Rows: .csv, .json, .jsonl, .npz, a folder of pictures, file.py:function, or - "
            "(stdin).",
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Answers: .csv, .jsonl, .npz, or - (stdout)."
        ),
    ],
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="The most rows to run together.")
    ] = 64,
    threads: Threads = 0,
    piped: Annotated[
        str, typer.Option("--format", help="What goes through stdin and stdout: csv or jsonl.")
    ] = "jsonl",
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document about the run.")
    ] = False,
) -> None:
    """Predict every row of a file: one answer out for each row in, in the same order."""
    from mlserve_cli.package.package import Package
    from mlserve_cli.predict.prediction import predict
    from mlserve_cli.runtime.engines import EngineOptions

    if piped not in ("csv", "jsonl"):
        raise typer.BadParameter(f"'{piped}' is not csv or jsonl", param_hint="--format")
    if as_json and target == "-":
        raise typer.BadParameter("the answers go to stdout already", param_hint="--json")
    with console.progress() as progress:
        report = predict(
            Package.open(package),
            source,
            target,
            batch=batch,
            options=EngineOptions(threads=threads),
            piped=piped,
            overwrite=force,
            progress=progress,
        )
    if as_json:
        console.print_json(
            {
                "input": source,
                "output": target,
                "rows": report.rows,
                "seconds": report.seconds,
                "rows_per_s": report.rows_per_s,
            }
        )
    console.note(f"{report.rows:,} rows in {report.seconds:.2f} s: {report.rows_per_s:,.0f} rows/s")
    console.next_command(f"mlserve up {package}")
