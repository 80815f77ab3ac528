"""`mlserve bench PKG…`: the options that packages have, and what is printed of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from mlserve_cli.cli import batch_sizes, console
from mlserve_cli.cli.threads import check as check_threads
from mlserve_cli.package import file_size

if TYPE_CHECKING:
    from mlserve_cli.bench.lineup import Asked
    from mlserve_cli.bench.report import Measurement, Report
    from mlserve_cli.explain.nodes import Profile
    from mlserve_cli.report.page import Page

PANEL = "Packages"

Threads = Annotated[
    str | None,
    typer.Option(
        "--threads",
        metavar="N,N,…",
        help="Threads for one run; 0 takes the physical cores that may be used.",
        show_default="0",
        rich_help_panel=PANEL,
    ),
]
Engines = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME,…",
        help="onnxruntime, openvino, torch or your own; else what each package names.",
        rich_help_panel=PANEL,
    ),
]
Precisions = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="NAME,…",
        help="fp32 or bf16: what float32 is computed in; else what each package names.",
        rich_help_panel=PANEL,
    ),
]
Profiled = Annotated[
    bool,
    typer.Option("--profile", help="Show what each node takes.", rich_help_panel=PANEL),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was typed, as it was."""

    batch: str | None
    seconds: float | None
    threads: str | None
    engines: str | None
    precisions: str | None

    def asked(self, paths: Sequence[str]) -> Asked:
        """What it asks for. Raises `typer.BadParameter` where that is nothing."""
        from mlserve_cli.bench.lineup import Asked
        from mlserve_cli.bench.subject import Precision

        precisions = _names(self.precisions)
        known = get_args(Precision)
        for name in precisions:
            if name not in known:
                raise typer.BadParameter(
                    f"'{name}' is none of {', '.join(known)}; int8 and the like are packages of "
                    "their own, which 'mlserve quantize' makes",
                    param_hint="--precision",
                )
        return Asked(
            paths=tuple(paths),
            engines=_names(self.engines),
            precisions=precisions,
            threads=_counts(self.threads or "0"),
            batch_sizes=batch_sizes.parse(self.batch or "1,8,32"),
            seconds=self.seconds or 1.5,
        )


def _names(text: str | None) -> tuple[Any, ...]:
    found = (name.strip() for name in (text or "").split(","))
    return tuple(dict.fromkeys(name for name in found if name))


def _counts(text: str) -> tuple[int, ...]:
    found = []
    for part in text.split(","):
        number = part.strip()
        if not number.isdigit():
            raise typer.BadParameter(f"'{number}' is no number of threads", param_hint="--threads")
        found.append(check_threads(int(number)))
    return tuple(dict.fromkeys(found))


def run(
    paths: Sequence[str],
    options: Options,
    *,
    profile: bool,
    csv: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Measure, write and print."""
    from mlserve_cli.pipeline import sidebyside

    asked = options.asked(paths)
    with console.progress() as progress:
        report = sidebyside.bench(asked, progress)
        profiles = sidebyside.profiles(report, progress) if profile else {}
    if csv is not None:
        report.write_csv(csv)
        console.note(f"wrote {csv}")
    if html is not None:
        from mlserve_cli.bench.page import page

        made = page(report)
        _add_profiles(made, profiles)
        made.write(html)
        console.note(f"wrote {html}")
    if as_json:
        document = report.document()
        for package in document["packages"]:
            if package["label"] in profiles:
                package["profile"] = sidebyside.profile_facts(profiles[package["label"]])
        console.print_json(document)
        return
    _print(report)
    _print_profiles(profiles)
    last = paths[-1]
    console.next_command(f"mlserve emit {last} -o server, or mlserve up {last}")


def _print(report: Report) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    out = console.stdout()
    shape: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    facts = Table("package", "variant", **shape)
    for name in ("size", "loaded in", "first answer", "peak memory"):
        facts.add_column(name, justify="right")
    for item in report.packages:
        size, load = file_size.text(item.size_bytes), f"{item.load_ms:.0f} ms"
        first = f"{item.first_ms:.3g} ms"
        peak = f"{item.footprint.most_bytes / 1e6:.0f} MB" if item.footprint else "–"
        facts.add_row(escape(item.label), item.package.manifest.variant, size, load, first, peak)
    out.print(facts)

    times, work = Table("time", **shape), Table("work", **shape)
    for name in ("batch", "p50 ms", "95 % of p50", "p90", "p95", "p99", "p99.9"):
        times.add_column(name, justify="right", no_wrap=True)
    for name in ("batch", "runs", "rows/s", "CPU µs a row"):
        work.add_column(name, justify="right", no_wrap=True)
    several = len(report.packages) > 1
    if several:
        work.add_column("speed-up (95 %)", no_wrap=True)
    for item in report.packages:
        for found in report.of(item.label):
            batch = f"{found.batch}{'*' if found.row_by_row else ''}"
            times.add_row(escape(item.label), batch, *_times(found))
            work.add_row(escape(item.label), batch, *_work(found, several=several))
    out.print(times)
    out.print(work)

    threads = list(dict.fromkeys(item.setting.threads for item in report.packages))
    counts = " and ".join(f"{count} thread{'s' if count > 1 else ''}" for count in threads)
    out.print(
        f"{report.engine}, {counts}, {report.hardware.cpu_name}",
        highlight=False,
        markup=False,
    )
    notes = []
    if any(found.row_by_row for found in report.measurements):
        notes.append("* one row at a time: the package is not proven for larger batches")
    if any(99.9 in found.unsure for found in report.measurements):
        notes.append("– too few runs for p99.9: it takes 5,000 (more --seconds)")
    for each in report.excluded:
        batch = f" at batch {each.batch}" if each.batch else ""
        notes.append(f"left out: {each.label}{batch}: {each.reason}")
    for note in notes:
        out.print(note, markup=False, highlight=False)
    if report.warnings:
        console.note(f"doubtful: {'; '.join(report.warnings)}")


def _times(found: Measurement) -> tuple[str, ...]:
    from mlserve_cli.bench.page import tail_ms

    return (
        f"{found.p50_ms:.3g}",
        f"{found.p50_low_ms:.3g}…{found.p50_high_ms:.3g}",
        *("–" if value is None else f"{value:.3g}" for value in tail_ms(found)),
    )


def _work(found: Measurement, *, several: bool) -> tuple[str, ...]:
    cpu_us = found.cpu_s_per_row * 1e6
    figures = (
        f"{found.runs:,}",
        f"{found.rows_per_s:,.0f}",
        f"{cpu_us:,.0f}" if cpu_us >= 100 else f"{cpu_us:.3g}",
    )
    if not several:
        return figures
    return (*figures, found.against_first.speed_up() if found.against_first else "1")


def _print_profiles(profiles: Mapping[str, Profile | str]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    out = console.stdout()
    for label, found in profiles.items():
        if isinstance(found, str):
            out.print(f"{label}: no profile, since {found}", markup=False, highlight=False)
            continue
        table = Table("node", "type", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in ("µs", "share"):
            table.add_column(name, justify="right")
        for name, operator, microseconds, share in _slowest(found):
            table.add_row(escape(name), operator, f"{microseconds:,.1f}", f"{share:.0%}")
        out.print(
            f"{label}: {found.total_us:,.0f} µs in {len(found.nodes)} nodes; those that take most",
            markup=False,
            highlight=False,
        )
        out.print(table)


def _slowest(found: Profile) -> list[tuple[str, str, float, float]]:
    from mlserve_cli.pipeline.sidebyside import SHOWN_NODES

    most = sorted(found.nodes, key=lambda node: -node.microseconds)[:SHOWN_NODES]
    total = found.total_us or 1.0
    return [
        (node.name, node.operator, node.microseconds, node.microseconds / total) for node in most
    ]


def _add_profiles(page: Page, profiles: Mapping[str, Profile | str]) -> None:
    for label, found in profiles.items():
        page.section(f"Where the time goes: {label}")
        if isinstance(found, str):
            page.text(f"Not known, since {found}.")
            continue
        page.table(
            ["node", "type", "µs", "share"],
            [
                [name, operator, microseconds, f"{share:.0%}"]
                for name, operator, microseconds, share in _slowest(found)
            ],
        )
