"""`mlserve plan`: an objective turned into the numbers of a server, and held against them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve_cli.cli import console
from mlserve_cli.errors import Exit, PackageError, Refused

if TYPE_CHECKING:
    from mlserve_cli.pipeline.plan import Figures, Planned
    from mlserve_cli.runtime.settings import Settings

_P99_MS = 100.0


def command(
    packages: Annotated[
        list[Path],
        typer.Argument(
            metavar="PKG…", help="The package to serve; others are looked at where it cannot."
        ),
    ],
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.01, help="Requests a second that will come."),
    ] = None,
    p99_ms: Annotated[
        float | None,
        typer.Option("--p99-ms", min=0.01, help="Milliseconds that 99 % of them may take at most."),
    ] = None,
    max_throughput: Annotated[
        bool,
        typer.Option(
            "--max-throughput", help="As many requests a second as keep --p99-ms (else 100)."
        ),
    ] = False,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows in a request.")] = 1,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The settings to write.")
    ] = Path("server.toml"),
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Put the numbers into a file that is there; what else it sets stays."
        ),
    ] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.5, help="Of each run under load.")
    ] = 4.0,
    trials: Annotated[
        int, typer.Option("--trials", min=1, max=20, help="Ways to run it that are tried.")
    ] = 3,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Hold the prediction against a server at last."),
    ] = True,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            "--price-per-hour", min=0, help="Of this machine: adds what a million rows cost."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find the server settings that keep an objective here, write them, and check the prediction.

    The package is timed, a queueing model proposes threads, instances, batch and delay, the most
    promising are tried under the load, and the best goes into server.toml with its reasons. Ends
    with status 1 where the objective cannot be kept, and says what would.
    """
    if max_throughput == (rate is not None):
        raise typer.BadParameter("say --rate R --p99-ms P, or --max-throughput.")
    if rate is not None and p99_ms is None:
        raise typer.BadParameter("--rate needs --p99-ms.")
    from mlserve_cli.package.package import Package
    from mlserve_cli.pipeline.plan import plan
    from mlserve_cli.search.serving import Wish

    before = _before(output, force=force)
    opened = [Package.open(path) for path in packages]
    wish = Wish(p99_ms=p99_ms or _P99_MS, rate=rate, rows=rows)
    with console.progress() as progress:
        found = plan(opened, wish, seconds=seconds, trials=trials, verify=verify, progress=progress)
    _write(found, output, before)
    if as_json:
        console.print_json(document(found, output, price_per_hour))
    else:
        _print(found, output, price_per_hour)
    if not found.met:
        console.print_error(
            Refused(
                f"the objective is not kept here: {wish.sentence}. The nearest was written to "
                f"'{output}'.",
                hint="; or ".join(found.remedies) or None,
            )
        )
        raise typer.Exit(Exit.REFUSED)
    if not as_json:
        console.next_command(f"mlserve up {found.package.path} --config {output}")


def _before(output: Path, *, force: bool) -> Settings | None:
    """The settings that are there already, which the numbers are put among."""
    from mlserve_cli.runtime.configuration import resolve

    if output.is_dir():
        raise PackageError(
            f"'{output}' is a folder, and the settings are a file.",
            hint=f"-o {output / 'server.toml'}",
        )
    if not os.access(output.parent, os.W_OK):  # now, not after minutes of measuring
        there = output.parent.exists()
        why = "takes no files" if there else "does not exist"
        raise PackageError(
            f"'{output}' cannot be written: '{output.parent}' {why}.",
            hint="choose another place" if there else "make the folder first",
        )
    if not output.exists():
        return None
    if not force:
        raise PackageError(
            f"'{output}' exists already.",
            hint="another place with -o; --force puts the numbers in and leaves the other settings",
        )
    return resolve(output, {}).settings


def _write(found: Planned, output: Path, before: Settings | None) -> None:
    from mlserve_cli.package.draft import hidden_beside, move, writing
    from mlserve_cli.runtime.settings import to_toml

    with writing(output), hidden_beside(output) as hidden:
        hidden.write_text(to_toml(found.settings(before)), encoding="utf-8")
        move(hidden, output)


def document(found: Planned, output: Path, price_per_hour: float | None) -> dict[str, Any]:
    """What `--json` prints."""
    import msgspec

    from mlserve_cli.pipeline.plan import cost_per_million

    seen = found.observed or found.predicted
    wish, service = found.wish, found.capacity.service
    document = {
        "package": str(found.package.path),
        "digest": found.package.manifest.digest,
        "objective": {"p99_ms": wish.p99_ms, "rate_per_s": wish.rate, "rows": wish.rows},
        "met": found.met,
        "settings": str(output),
        "sizing": msgspec.to_builtins(found.sizing),
        "predicted": _facts(found.predicted),
        "observed": _facts(found.observed) if found.observed else None,
        "highest_rate_per_s": found.highest_rate,
        "overheads": {
            "slowdown": service.slowdown,
            "loop_us": service.loop_s * 1e6,
            "fixed_us": service.fixed_s * 1e6,
        },
        "trials": [
            {
                "sizing": msgspec.to_builtins(trial.sizing),
                "promised_p99_ms": _finite(trial.promised_ms),
                **_facts(trial.seen),
            }
            for trial in found.trials
        ],
        "remedies": found.remedies,
        "doubts": found.doubts,
    }
    if price_per_hour is not None and seen.throughput:
        document["cost_per_million_rows"] = cost_per_million(
            price_per_hour, seen.throughput, wish.rows
        )
    return document


def _facts(figures: Figures) -> dict[str, Any]:
    return {
        "rate_per_s": figures.rate,
        "sent_per_s": figures.sent,
        "throughput_per_s": figures.throughput,
        "p99_ms": _finite(figures.p99_ms),
        "peak_mib": figures.peak_mib,
    }


def _finite(value: float) -> float | None:
    import math

    return value if math.isfinite(value) else None


def _print(found: Planned, output: Path, price_per_hour: float | None) -> None:
    from rich.table import Table

    from mlserve_cli.pipeline.plan import cost_per_million, in_words

    out = console.stdout()
    out.print(f"{found.wish.sentence}: {found.package.manifest.name}", markup=False)
    for name, reason in found.sizing.reasons.items():
        value = getattr(found.sizing, name)
        shown = str(value).lower() if isinstance(value, bool) else value  # as the file has it
        out.print(f"  {name} = {shown}  # {reason}", markup=False)
    table = Table("", "requests/s", "p99, ms", "memory, MiB")
    for title, figures in (("predicted", found.predicted), ("observed", found.observed)):
        if figures is not None:
            table.add_row(
                title,
                f"{figures.throughput:,.0f}",
                in_words(figures.p99_ms).removesuffix(" ms"),
                f"{figures.peak_mib:,.0f}",
            )
    out.print(table)
    seen = found.observed or found.predicted
    if price_per_hour is not None and seen.throughput:
        cost = cost_per_million(price_per_hour, seen.throughput, found.wish.rows)
        out.print(f"a million rows at this rate cost {cost:,.4g}", markup=False)
    for doubt in found.doubts:
        console.note(f"doubtful: {doubt}")
    out.print(f"written: {output}", markup=False)
