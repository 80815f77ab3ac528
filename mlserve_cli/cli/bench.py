"""`mlserve bench`: how fast packages are, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve_cli.cli import batch_sizes, console
from mlserve_cli.cli.threads import Threads

if TYPE_CHECKING:
    from mlserve_cli.bench.report import Measurement, Report


def command(
    packages: Annotated[
        list[Path],
        typer.Argument(metavar="PKG", help="The packages; the first is what others are held to."),
    ],
    batch: Annotated[
        str, typer.Option("--batch", metavar="N,N,…", help="Batch sizes, separated by commas.")
    ] = "1,8,32",
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.01, help="To spend on each package and batch size."),
    ] = 1.5,
    threads: Threads = 0,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="onnxruntime or openvino; else what each package names."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Time packages in this process, interleaved: p50, p95, p99 and rows a second."""
    from mlserve_cli.bench.engine import measure

    sizes = batch_sizes.parse(batch)
    with console.progress() as progress:
        report = measure(
            packages,
            batch_sizes=sizes,
            seconds=seconds,
            threads=threads,
            engine=engine,
            progress=progress,
        )
    if as_json:
        console.print_json(report.document())
        return
    _print(report)
    console.next_command(f"mlserve emit {packages[-1]} -o server, or mlserve up {packages[-1]}")


def _print(report: Report) -> None:
    from rich import box
    from rich.table import Table

    out = console.stdout()
    facts = Table("package", "variant", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    facts.add_column("size", justify="right")
    facts.add_column("loaded in", justify="right")
    for item in report.packages:
        size, load = f"{item.size_bytes / 1e6:.2f} MB", f"{item.load_ms:.0f} ms"
        facts.add_row(item.label, item.variant, size, load)
    out.print(facts)

    table = Table("package", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("batch", "p50 ms", "p95 ms", "p99 ms", "rows/s"):
        table.add_column(name, justify="right")
    if len(report.packages) > 1:
        table.add_column("speed-up (95 %)")
    for item in report.packages:
        for found in report.of(item.label):
            table.add_row(item.label, *_figures(found), *_speed_up(report, found))
    out.print(table)

    hardware, threads = report.hardware, report.threads
    out.print(
        f"{report.engine}, {threads} thread{'s' if threads > 1 else ''}, {hardware.cpu_name}",
        highlight=False,
        markup=False,
    )
    if any(found.row_by_row for found in report.measurements):
        out.print("* one row at a time: the package is not proven for larger batches", markup=False)
    if report.warnings:
        console.note(f"doubtful: {'; '.join(report.warnings)}")


def _figures(found: Measurement) -> tuple[str, ...]:
    return (
        f"{found.batch}{'*' if found.row_by_row else ''}",
        f"{found.p50_ms:.3g}",
        f"{found.p95_ms:.3g}",
        f"{found.p99_ms:.3g}",
        f"{found.rows_per_s:,.0f}",
    )


def _speed_up(report: Report, found: Measurement) -> tuple[str, ...]:
    if len(report.packages) == 1:
        return ()
    return (found.against_first.speed_up() if found.against_first else "1",)
