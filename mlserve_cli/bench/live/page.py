"""The report of live servers as a page: curves, distributions, batch sizes, and every figure."""

from __future__ import annotations

from mlserve_cli.bench.live.report import LiveReport, Measured, Subject
from mlserve_cli.bench.load.run import PERCENTILES
from mlserve_cli.report.axes import Axis
from mlserve_cli.report.bars import Bar, bars
from mlserve_cli.report.distribution import distribution
from mlserve_cli.report.frame import Reference
from mlserve_cli.report.lines import Series, lines
from mlserve_cli.report.page import Page

_THROUGHPUT = Axis("throughput", "answers/s", better="high", include=(0,))
_LATENCY = Axis("latency", "ms", log=True, better="low")
_FEW = 6  # distributions in one plot; more cover each other


def page(report: LiveReport) -> Page:
    """The whole page."""
    names = ", ".join(subject.label for subject in report.subjects)
    found = Page(f"Under load: {names}", f"Measured from {report.hardware.cpu_name}.")
    if report.warnings:
        found.section("What makes these figures doubtful")
        found.table(["doubt"], [[warning] for warning in report.warnings])
    if any(len(subject.runs) > 1 for subject in report.subjects):
        found.section("Throughput and latency")
        found.figure(
            lines(
                [
                    Series(
                        f"{subject.label}, p{percent:g}" if several else f"p{percent:g}",
                        *_curve(subject, percent),
                    )
                    for several in [len(report.subjects) > 1]
                    for subject in report.subjects
                    for percent in (50.0, 99.0)
                ],
                _THROUGHPUT,
                _LATENCY,
                title="Latency against throughput",
            ),
            "Each mark is a run. Where throughput no longer grows, requests only wait longer.",
        )
    for subject in report.subjects:
        _subject(found, subject)
    return found


def _curve(subject: Subject, percent: float) -> tuple[list[float], list[float]]:
    runs = sorted((one.run for one in subject.runs), key=lambda run: run.throughput)
    return (
        [run.throughput for run in runs],
        [run.latency.percentile_ms(percent) for run in runs],
    )


def _subject(found: Page, subject: Subject) -> None:
    found.section(subject.label)
    found.text(
        f"{subject.served.protocol} at {subject.place.url}, {subject.questions.rows} rows a "
        f"request: {subject.questions.source}. {subject.checked.answers} answers were read whole."
    )
    measured = list(subject.runs)
    highest = subject.highest
    if highest is not None:
        rate = (
            "none that was tried"
            if highest.rate is None
            else f"{highest.rate:,.0f} requests a second"
        )
        found.text(f"The highest rate with {highest.objective.sentence}: {rate}.")
        found.table(
            ["rate/s", "sent", "in time", "verdict"],
            [
                [
                    trial.rate,
                    trial.run.sent,
                    f"{trial.run.goodput(highest.objective.latency_ms):.2%}",
                    trial.verdict,
                ]
                for trial in highest.trials
            ],
        )
        if highest.run is not None:
            measured.append(Measured(highest.run, subject.highest_server))
    if not measured:
        return
    found.table(
        ["load", "answers/s", "failed", *(f"p{percent:g} ms" for percent in PERCENTILES), "max ms"],
        [
            [
                one.name,
                one.run.throughput,
                one.run.failures,
                *(float(value) for value in one.run.latency.percentiles_ms(PERCENTILES)),
                one.run.latency.max_ms,
            ]
            for one in measured
        ],
    )
    for one in measured:
        for note in one.notes:
            found.text(f"{one.name}: {note}.")
    references: tuple[Reference, ...] = ()
    if highest is not None:
        references = (Reference(highest.objective.latency_ms, "objective", "x"),)
    found.figure(
        distribution(
            {one.name: one.run.latency.values_ms().tolist() for one in measured[:_FEW]},
            _LATENCY,
            title="Distribution of latency",
            references=references,
        ),
        "The share of answers that took no longer; an open loop counts from the scheduled time.",
    )
    _server_side(found, measured)


def _server_side(found: Page, measured: list[Measured]) -> None:
    seen = [(one.name, one.server) for one in measured if one.server is not None]
    if not seen:
        return
    found.text("What the server itself counted during each run:")
    stages = list(dict.fromkeys(name for _, server in seen for name in server.stages_ms))
    found.table(
        ["load", "rows a batch", *(f"{stage}, mean ms" for stage in stages)],
        [
            [name, server.mean_batch_rows, *(server.stages_ms.get(stage) for stage in stages)]
            for name, server in seen
        ],
    )
    name, server = seen[-1]
    if server.batches:
        found.figure(
            bars(
                [Bar(f"up to {rows} rows", count) for rows, count in server.batches.items()],
                Axis("batches", include=(0,)),
                title=f"Batch sizes, {name}",
            )
        )
