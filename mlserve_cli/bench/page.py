"""The report of packages as a page: curves, distributions, batch sizes, memory, Pareto front."""

from __future__ import annotations

from mlserve_cli.bench.report import Loaded, Measurement, Report
from mlserve_cli.report.axes import Axis
from mlserve_cli.report.bars import Bar, bars
from mlserve_cli.report.distribution import distribution
from mlserve_cli.report.lines import Series, lines
from mlserve_cli.report.page import Page
from mlserve_cli.report.scatter import Point, scatter

_ROWS = Axis("throughput", "rows/s", better="high", include=(0,))
_LATENCY = Axis("time for a batch", "ms", log=True, better="low")
_MEMORY = Axis("peak memory", "MB", better="low")
_FEW = 6  # distributions in one plot; more cover each other


def page(report: Report) -> Page:
    """The whole page."""
    labels = list(dict.fromkeys(item.label for item in report.packages))
    found = Page(
        f"Side by side: {'; '.join(labels)}",
        f"Measured on {report.hardware.cpu_name}, "
        + ", ".join(f"{name} {version}" for name, version in report.libraries.items()),
    )
    if report.warnings:
        found.section("What makes these figures doubtful")
        found.table(["doubt"], [[warning] for warning in report.warnings])
    if report.excluded:
        found.section("What could not run")
        found.table(
            ["which", "batch", "why"],
            [[each.label, each.batch, each.reason] for each in report.excluded],
        )
    _plots(found, report)
    _figures(found, report)
    return found


def _plots(found: Page, report: Report) -> None:
    batches = {label: report.of(label) for label in (item.label for item in report.packages)}
    measured = {label: items for label, items in batches.items() if items}
    found.section("Throughput and latency")
    found.figure(
        lines(
            [
                Series(
                    f"{label}, {name}" if len(measured) > 1 else name,
                    [item.rows_per_s for item in items],
                    [_value(item, percent) for item in items],
                )
                for label, items in measured.items()
                for name, percent in (("p50", None), ("p99", 99.0))
            ],
            _ROWS,
            _LATENCY,
            title="Latency against throughput",
        ),
        "Each mark is a batch size, with one caller and no queue.",
    )
    least = min(item.batch for items in measured.values() for item in items)
    shown = {
        label: item.latency.values_ms().tolist()
        for label, items in list(measured.items())[:_FEW]
        for item in items
        if item.batch == least
    }
    if shown:
        found.section("Distribution of latency")
        found.figure(
            distribution(shown, _LATENCY, title=f"Distribution of latency, batch {least}"),
            "The share of runs that took no longer.",
        )
    found.section("Batch sizes")
    found.figure(
        lines(
            [
                Series(
                    label,
                    [float(item.batch) for item in items],
                    [item.rows_per_s for item in items],
                    low=[item.batch / item.p50_high_ms * 1e3 for item in items],
                    high=[item.batch / item.p50_low_ms * 1e3 for item in items],
                )
                for label, items in measured.items()
            ],
            Axis("batch size", log=True),
            _ROWS,
            title="Throughput by batch size",
        ),
        "Bands are 95 % intervals of the median.",
    )
    _memory(found, report)
    points = _points(measured)
    found.section("The best of them")
    found.figure(
        scatter(points, Axis("latency", "ms", log=True, better="low"), _ROWS, title="Pareto front"),
        f"Time at batch {least} against the most rows a second at any batch size; no other beats "
        "those on the line in both.",
    )


def _value(item: Measurement, percent: float | None) -> float:
    return item.p50_ms if percent is None else item.p99_ms


def _memory(found: Page, report: Report) -> None:
    known = [(item, item.footprint) for item in report.packages if item.footprint]
    if not known:
        return
    found.section("Memory")
    found.figure(
        bars(
            [
                Bar(f"{item.label}{part}", value / 1e6, group=group)
                for item, alone in known
                for part, value, group in (
                    ("", alone.most_bytes, "the most while it runs"),
                    (" (empty)", alone.base_bytes, "before it is loaded"),
                )
            ],
            _MEMORY,
            title="Peak memory",
        ),
        "Resident memory of a process that holds this package alone. Before it is loaded there are "
        "Python, NumPy and the engine's library.",
    )


def _points(measured: dict[str, list[Measurement]]) -> list[Point]:
    made = {
        label: (min(items, key=lambda item: item.batch), max(item.rows_per_s for item in items))
        for label, items in measured.items()
    }
    return [
        Point(
            x=first.p50_ms,
            y=rows,
            name=label,
            x_interval=(first.p50_low_ms, first.p50_high_ms),
            front=not any(
                (other.p50_ms <= first.p50_ms and most >= rows)
                and (other.p50_ms < first.p50_ms or most > rows)
                for other, most in made.values()
            ),
        )
        for label, (first, rows) in made.items()
    ]


def _figures(found: Page, report: Report) -> None:
    found.section("Every figure")
    found.table(
        [
            *("package", "engine", "precision", "threads", "file MB", "loaded in ms"),
            *("first answer ms", "peak MB"),
        ],
        [_loaded(item) for item in report.packages],
    )
    several = len(report.packages) > 1
    found.table(
        [
            *("package", "batch", "runs", "p50 ms", "95 % of p50", "p90", "p95", "p99", "p99.9"),
            *("rows/s", "CPU µs a row", *(["speed-up (95 %)"] if several else [])),
        ],
        [
            [
                item.label,
                item.batch,
                item.runs,
                item.p50_ms,
                f"{item.p50_low_ms:.3g} … {item.p50_high_ms:.3g}",
                *tail_ms(item),
                item.rows_per_s,
                item.cpu_s_per_row * 1e6,
                *(
                    [item.against_first.speed_up() if item.against_first else "1"]
                    if several
                    else []
                ),
            ]
            for item in report.measurements
        ],
    )


def tail_ms(item: Measurement) -> list[float | None]:
    """p90, p95, p99 and p99.9, None where too few runs stand for it."""
    known = {found.percent: found.ms for found in item.tail}
    return [known.get(percent) for percent in (90.0, 95.0, 99.0, 99.9)]


def _loaded(item: Loaded) -> list[str | int | float | None]:
    return [
        item.label,
        item.setting.engine,
        item.setting.precision,
        item.setting.threads,
        item.size_bytes / 1e6,
        item.load_ms,
        item.first_ms,
        item.footprint.most_bytes / 1e6 if item.footprint else None,
    ]
