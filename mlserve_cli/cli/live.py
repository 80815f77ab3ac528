"""`mlserve bench URL…`: the options that live servers have, and what is printed of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve_cli.cli import console
from mlserve_cli.errors import Exit, MlserveError

if TYPE_CHECKING:
    from mlserve_cli.bench.live.measuring import Wish
    from mlserve_cli.bench.live.report import LiveReport, Measured, Subject
    from mlserve_cli.bench.load.run import Load

PANEL = "Live servers"

ProtocolName = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="oip-binary, oip-json, oip-grpc, tensorflow, torchserve or predict; else what the "
        "server answers to.",
        rich_help_panel=PANEL,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="Which; else the only one.", rich_help_panel=PANEL
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="FILE",
        help="Rows to send: .npz, .csv, .json, .jsonl, a folder of pictures, file.py:function; for "
        "torchserve and predict, files to send as they are.",
        rich_help_panel=PANEL,
    ),
]
PackageOption = Annotated[
    Path | None,
    typer.Option(
        "--package",
        metavar="PKG",
        help="The package that is served: its golden rows are sent, and its answers expected.",
        rich_help_panel=PANEL,
    ),
]
Concurrency = Annotated[
    str | None,
    typer.Option(
        "--concurrency",
        metavar="N,N,…",
        help="Closed loop: so many users, each waiting for its answer. Without --rate, 1,4,16.",
        rich_help_panel=PANEL,
    ),
]
Rate = Annotated[
    str | None,
    typer.Option(
        "--rate",
        metavar="N,N,…",
        help="Open loop: so many requests a second, answered or not; latency counts from the "
        "scheduled time.",
        rich_help_panel=PANEL,
    ),
]
Poisson = Annotated[
    bool,
    typer.Option(
        "--poisson", help="With --rate: at random times, as users come.", rich_help_panel=PANEL
    ),
]
FindRate = Annotated[
    bool,
    typer.Option(
        "--find-rate",
        help="Search the highest rate that keeps --p99-ms, by LoadGen's bound.",
        rich_help_panel=PANEL,
    ),
]
P99 = Annotated[
    float | None,
    typer.Option(
        "--p99-ms",
        min=0.001,
        metavar="MS",
        help="The objective: 99 % of the requests within it.",
        rich_help_panel=PANEL,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=0.01,
        metavar="S",
        help="Give up on a request, and on finding out what a server is (1 s at least).",
        rich_help_panel=PANEL,
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        "--processes", min=1, max=64, help="Of the load generator.", rich_help_panel=PANEL
    ),
]
Seed = Annotated[
    int,
    typer.Option("--seed", min=0, help="Of random times and rows.", rich_help_panel=PANEL),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="MLSERVE_KEY",
        show_envvar=True,
        help="An API key, sent as a bearer token.",
        rich_help_panel=PANEL,
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca", metavar="FILE", help="Certificates to trust, for https.", rich_help_panel=PANEL
    ),
]
Csv = Annotated[
    Path | None,
    typer.Option("--csv", metavar="FILE", help="Write a line for each run."),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a report with plots."),
]


def is_live(arguments: Sequence[str]) -> bool:
    """Whether the arguments name servers; a mixture is a usage error."""
    from mlserve_cli.bench.live.place import is_url

    urls = [is_url(argument) for argument in arguments]
    if any(urls) and not all(urls):
        raise typer.BadParameter(
            "packages and live servers are measured in different ways; give the one or the other",
            param_hint="SUBJECT",
        )
    return any(urls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was typed, as it was."""

    protocol: str | None
    model: str | None
    data: str | None
    package: Path | None
    batch: str | None
    concurrency: str | None
    rate: str | None
    poisson: bool
    find_rate: bool
    p99_ms: float | None
    seconds: float | None
    timeout_s: float
    processes: int
    seed: int

    def wish(self) -> Wish:
        """What it asks for. Raises `typer.BadParameter` where that is nothing."""
        from mlserve_cli.bench.live.measuring import Wish
        from mlserve_cli.bench.live.served import PROTOCOLS
        from mlserve_cli.bench.load.highest_rate import Objective

        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise typer.BadParameter(
                f"'{self.protocol}' is none of {', '.join(PROTOCOLS)}", param_hint="--protocol"
            )
        if self.find_rate and self.p99_ms is None:
            raise typer.BadParameter("--find-rate needs an objective", param_hint="--p99-ms")
        if self.poisson and self.rate is None:
            raise typer.BadParameter("only an open loop has times: --rate", param_hint="--poisson")
        batch = self.batch or "1"
        if not batch.isdecimal() or int(batch) < 1:
            raise typer.BadParameter(
                f"'{batch}' is no number of rows a request", param_hint="--batch"
            )
        return Wish(
            loads=loads(
                self.concurrency,
                self.rate,
                poisson=self.poisson,
                seed=self.seed,
                find_rate=self.find_rate,
            ),
            objective=Objective(self.p99_ms) if self.p99_ms is not None else None,
            find_rate=self.find_rate,
            seconds=self.seconds or 5.0,
            timeout_s=self.timeout_s,
            processes=self.processes,
            protocol=self.protocol,
            model=self.model,
            data=self.data,
            package=self.package,
            batch=int(batch),
            seed=self.seed,
        )


def run(
    urls: Sequence[str],
    options: Options,
    *,
    key: str | None,
    ca: Path | None,
    csv: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Measure, write and print. Ctrl-C prints what was measured until then."""
    from mlserve_cli.bench.live.measuring import measure

    wish = options.wish()
    with console.progress() as progress:
        report = measure(urls, wish, key=key, ca=str(ca) if ca else None, progress=progress)
    write_and_print(report, html=html, csv=csv, as_json=as_json)
    if report.interrupted:
        console.note("stopped early: the figures are of what was measured until then")
        raise typer.Exit(Exit.INTERRUPTED)
    if not report.answered:
        raise MlserveError(
            "not one request was answered with success.",
            hint="the table tells what came instead; the server's log should say why",
        )
    if not wish.find_rate and options.rate is None:
        console.next_command(
            f"mlserve bench {report.subjects[0].place.url} --find-rate --p99-ms 20"
        )


def loads(
    concurrency: str | None, rate: str | None, *, poisson: bool, seed: int, find_rate: bool
) -> list[Load]:
    """One for each run."""
    from mlserve_cli.bench.load.run import ClosedLoop, OpenLoop

    if concurrency is None and rate is None and not find_rate:
        concurrency = "1,4,16"
    found: list[Load] = []
    for text in (concurrency or "").split(",") if concurrency else ():
        users = _number(text, "--concurrency")
        if users != int(users) or not 1 <= users <= 4096:
            raise typer.BadParameter(f"'{text}' is no number of users", param_hint="--concurrency")
        found.append(ClosedLoop(int(users)))
    rates = [_number(text, "--rate") for text in rate.split(",")] if rate else []
    return found + [OpenLoop(rate=one, poisson=poisson, seed=seed) for one in rates]


def _number(text: str, hint: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e7:
        raise typer.BadParameter(
            f"'{text.strip()}' is no number above 0 and below ten million", param_hint=hint
        )
    return value


def write_and_print(
    report: LiveReport, *, html: Path | None, csv: Path | None, as_json: bool
) -> None:
    """Write the files that were asked for, then print."""
    if csv is not None:
        report.write_csv(csv)
        console.note(f"wrote {csv}")
    if html is not None:
        from mlserve_cli.bench.live.page import page

        page(report).write(html)
        console.note(f"wrote {html}")
    if as_json:
        console.print_json(report.document())
        return
    for subject in report.subjects:
        _print(subject)
    for warning in report.warnings:
        console.note(f"doubtful: {warning}")


def _print(subject: Subject) -> None:
    from rich import box
    from rich.table import Table

    out = console.stdout()
    served, asked = subject.served, subject.questions
    out.print(
        f"{subject.place.url}: {served.model} over {served.protocol}, {asked.rows} row"
        f"{'s' if asked.rows > 1 else ''} a request, {asked.source}; {subject.checked.answers} "
        f"answers read whole",
        highlight=False,
        markup=False,
    )
    measured = list(subject.runs)
    highest = subject.highest
    if highest is not None and highest.run is not None:
        from mlserve_cli.bench.live.report import Measured

        measured.append(Measured(highest.run, subject.highest_server))
    if measured:
        aimed = any(one.run.objective_ms for one in measured)
        failed = any(one.run.failures for one in measured)
        table = Table("latency", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        heads = ["p50 ms", "p90", "p95", "p99", "95 % of p99", "p99.9", "max"]
        if aimed:
            heads[1] = "in time"  # a terminal has eighty columns
        for head in ("answers/s", *heads, *(["failed"] if failed else [])):
            table.add_column(head, justify="right", no_wrap=True)
        for one in measured:
            table.add_row(*_figures(one, aimed=aimed, failed=failed))
        out.print(table)
    for one in measured:
        found = {**one.run.statuses, **one.run.errors}
        notes = [f"{count:,} requests: {status}" for status, count in found.items()] + one.notes
        if one.server is not None:
            notes.insert(0, f"the server saw {one.server.sentence}")
        for note in notes:
            out.print(f"{one.name}: {note}", highlight=False, markup=False)
    if highest is not None:
        rate = (
            "none that was tried"
            if highest.rate is None
            else f"{highest.rate:,.0f} requests a second"
        )
        out.print(
            f"highest rate with {highest.objective.sentence}: {rate} "
            f"(99 % sure by LoadGen's bound, after {len(highest.trials)} trials)",
            highlight=False,
            markup=False,
        )


def _figures(one: Measured, *, aimed: bool, failed: bool) -> list[str]:
    from mlserve_cli.bench.load.run import PERCENTILES

    run = one.run
    failures = [f"{run.failures:,}"] if failed else []
    if not run.latency.total:
        return [one.name, f"{run.throughput:,.0f}", *["–"] * 7, *failures]
    values = [f"{value:.3g}" for value in run.latency.percentiles_ms(PERCENTILES)]
    if aimed:
        values[1] = f"{run.goodput(run.objective_ms or 0.0):.2%}"
    interval = run.latency.interval_ms(99)
    values.insert(4, f"{interval.low:.3g}…{interval.high:.3g}")
    longest = f"{run.latency.max_ms:.3g}"
    return [one.name, f"{run.throughput:,.0f}", *values, longest, *failures]
