"""`mlserve bench SUBJECT --scenario …`: MLPerf's LoadGen asks packages, or live servers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve_cli.cli import console, engines
from mlserve_cli.errors import Exit

if TYPE_CHECKING:
    from mlserve_cli.bench.mlperf.running import Outcome, Plan
    from mlserve_cli.package.progress import Progress

_PANEL = "MLPerf"

Name = Annotated[
    str | None,
    typer.Option(
        "--scenario",
        metavar="NAME",
        help="single-stream, multi-stream, server (with --rate and --p99-ms) or offline, by "
        "MLPerf's LoadGen; exits 1 where a run is not valid.",
        rich_help_panel=_PANEL,
    ),
]
Accuracy = Annotated[
    bool,
    typer.Option(
        "--accuracy",
        help="Ask every sample once, and compare the answers with the golden ones.",
        rich_help_panel=_PANEL,
    ),
]
Logs = Annotated[
    Path | None,
    typer.Option(
        "--logs",
        metavar="DIR",
        help="Where LoadGen's logs are kept (mlperf/SUBJECT-SCENARIO-MODE).",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was typed, as it was."""

    name: str
    accuracy: bool
    logs: Path | None
    batch: str | None
    seconds: float | None
    rate: str | None
    p99_ms: float | None
    threads: str | None
    engine: str | None
    precision: str | None
    protocol: str | None
    model: str | None
    data: str | None
    package: Path | None
    concurrency: str | None
    timeout_s: float
    seed: int
    key: str | None
    ca: Path | None

    def plan(self) -> Plan:
        """What it asks for. Raises `typer.BadParameter` where that is nothing."""
        from mlserve_cli.bench.mlperf.remote import MOST_CONNECTIONS
        from mlserve_cli.bench.mlperf.running import Plan
        from mlserve_cli.bench.mlperf.task import SCENARIOS

        for known in SCENARIOS:
            if known == self.name.strip().lower():
                name = known
                break
        else:
            raise typer.BadParameter(
                f"'{self.name}' is none of {', '.join(SCENARIOS)}", param_hint="--scenario"
            )
        if name == "server" and not self.accuracy and (self.rate is None or self.p99_ms is None):
            raise typer.BadParameter(
                "the server scenario asks at a rate, and holds an objective: --rate and --p99-ms",
                param_hint="--scenario",
            )
        if name != "server" and self.rate is not None:
            raise typer.BadParameter("only the server scenario has one", param_hint="--rate")
        return Plan(
            scenario=name,
            accuracy=self.accuracy,
            seconds=self.seconds or 10.0,
            rate=float(_whole(self.rate or "100", "--rate")),
            latency_ms=self.p99_ms or 100.0,
            batch=_whole(self.batch or "32", "--batch"),
            connections=_whole(self.concurrency or str(MOST_CONNECTIONS), "--concurrency"),
            seed=self.seed,
        )


def _whole(text: str, hint: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise typer.BadParameter(
            f"'{text}' is no whole number above 0; a scenario takes one", param_hint=hint
        )
    return int(text)


def run(subjects: Sequence[str], options: Options, *, is_live: bool, as_json: bool) -> None:
    """Ask, print, and end with 1 where a run is not valid or an answer is wrong."""
    plan = options.plan()
    with console.progress() as progress:
        of_them = _servers if is_live else _packages
        outcomes = list(of_them(subjects, options, plan, progress))
    if as_json:
        console.print_json(
            {"schema": 1, "kind": "mlperf", "runs": [outcome.facts() for outcome in outcomes]}
        )
    else:
        for outcome in outcomes:
            _print(outcome)
    if not all(outcome.passed for outcome in outcomes):
        raise typer.Exit(Exit.REFUSED)


def _servers(
    urls: Sequence[str], options: Options, plan: Plan, progress: Progress
) -> Iterator[Outcome]:
    from mlserve_cli.bench.live import measuring
    from mlserve_cli.bench.mlperf import running
    from mlserve_cli.cli import live

    typed = live.Options(
        protocol=options.protocol,
        model=options.model,
        data=options.data,
        package=options.package,
        batch=options.batch,
        concurrency=None,
        rate=None,
        poisson=False,
        find_rate=False,
        p99_ms=None,
        seconds=None,
        timeout_s=options.timeout_s,
        processes=1,
        seed=options.seed,
    )
    for url in urls:
        subject = measuring.prepare(
            url, typed.wish(), key=options.key, ca=str(options.ca) if options.ca else None
        )
        folder = _folder(options, plan, f"{subject.label}-{subject.served.protocol}", urls)
        yield running.of_server(subject, plan, folder, progress)


def _packages(
    paths: Sequence[str], options: Options, plan: Plan, progress: Progress
) -> Iterator[Outcome]:
    from mlserve_cli.bench.lineup import lineup, why_not
    from mlserve_cli.bench.mlperf import running
    from mlserve_cli.errors import StepError
    from mlserve_cli.package.package import Package
    from mlserve_cli.runtime.hardware import detect

    typed = engines.Options(
        batch=options.batch,
        seconds=options.seconds,
        threads=options.threads,
        engines=options.engine,
        precisions=options.precision,
    )
    asked, hardware = typed.asked(paths), detect()
    entries = lineup(
        [Package.open(Path(path)) for path in paths],
        engines=asked.engines,
        precisions=asked.precisions,
        threads=asked.threads,
        cores=hardware.physical_cores,
    )
    for entry in entries:
        reason = why_not(entry, hardware)
        if reason is not None:
            raise StepError(f"'{entry.label}' cannot run: {reason}.")
        folder = _folder(options, plan, entry.label, entries)
        yield running.of_package(entry, plan, folder, progress)


def _folder(options: Options, plan: Plan, label: str, several: Sequence[object]) -> Path:
    mode = "accuracy" if plan.accuracy else "performance"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label)
    if options.logs is None:
        return Path("mlperf") / f"{name}-{plan.scenario}-{mode}"
    return options.logs / name if len(several) > 1 else options.logs


def _print(outcome: Outcome) -> None:
    out = console.stdout()
    lines = [f"{outcome.label}, {outcome.plan.scenario}: {outcome.sentence}"]
    lines += [f"  {line}" for line in _figures(outcome)]
    for line in lines:
        out.print(line, markup=False, highlight=False)
    console.note(f"LoadGen's logs are in {outcome.folder}")
    for doubt in outcome.doubts:
        console.note(f"doubtful: {doubt}")


_SHOWN = ("samples per second", "qps w/o", "th percentile latency", "50.00 perc", "99.00 perc")


def _figures(outcome: Outcome) -> Iterator[str]:
    """LoadGen's own figures, those that a reader looks for; the rest is in its logs."""
    for name, value in outcome.summary.figures.items():
        lower = name.lower()
        if lower.startswith("scheduled") or not any(part in lower for part in _SHOWN):
            continue
        if "(ns)" in lower:
            yield f"{name.replace('(ns)', '').strip()}: {value / 1e6:,.3f} ms"
        else:
            yield f"{name}: {value:,.1f}"
