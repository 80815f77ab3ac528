"""`mlserve bench`: how fast packages are, side by side, and live servers under load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve_cli.cli import batch_sizes, console, live
from mlserve_cli.cli.threads import Threads

if TYPE_CHECKING:
    from mlserve_cli.bench.report import Measurement, Report


def command(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="SUBJECT",
            help="Packages, the first of which others are held to; or the URLs of live servers.",
        ),
    ],
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch",
            metavar="N,N,…",
            help="Batch sizes, separated by commas (1,8,32); of a live server, rows a request (1).",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            min=0.01,
            help="To spend on each package and batch size (1.5); on each load of a server (5).",
        ),
    ] = None,
    threads: Threads = 0,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="onnxruntime or openvino; else what each package names."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    protocol: live.ProtocolName = None,
    model: live.Model = None,
    data: live.Data = None,
    package: live.PackageOption = None,
    concurrency: live.Concurrency = None,
    rate: live.Rate = None,
    poisson: live.Poisson = False,
    find_rate: live.FindRate = False,
    p99_ms: live.P99 = None,
    timeout: live.Timeout = 30.0,
    processes: live.Processes = 1,
    seed: live.Seed = 0,
    key: live.Key = None,
    ca: live.Ca = None,
    csv: live.Csv = None,
    html: live.Html = None,
) -> None:
    """Time packages in this process, interleaved; or put load on live servers, of any make."""
    if live.is_live(subjects):
        options = live.Options(
            protocol=protocol,
            model=model,
            data=data,
            package=package,
            batch=batch,
            concurrency=concurrency,
            rate=rate,
            poisson=poisson,
            find_rate=find_rate,
            p99_ms=p99_ms,
            seconds=seconds,
            timeout_s=timeout,
            processes=processes,
            seed=seed,
        )
        live.run(subjects, options, key=key, ca=ca, csv=csv, html=html, as_json=as_json)
        return
    packages = [Path(subject) for subject in subjects]
    _engines(packages, batch or "1,8,32", seconds or 1.5, threads, engine, as_json=as_json)


def _engines(
    packages: list[Path],
    batch: str,
    seconds: float,
    threads: int,
    engine: str | None,
    *,
    as_json: bool,
) -> None:
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
