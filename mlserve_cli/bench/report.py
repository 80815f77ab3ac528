"""What one run of `bench` measured: figures of each package at each batch size, and where."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mlserve_cli.bench.compare import Ratio
from mlserve_cli.bench.footprint import Footprint
from mlserve_cli.bench.lineup import Asked, Excluded
from mlserve_cli.bench.load.histogram import Histogram
from mlserve_cli.bench.subject import Setting
from mlserve_cli.package.draft import hidden_beside, writing
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.tensors import Array

if TYPE_CHECKING:
    from mlserve_cli.runtime.hardware import Hardware

SCHEMA = 1

TAIL = (90.0, 95.0, 99.0, 99.9)
"""Percentiles beside the median."""

BEYOND = 5
"""With fewer runs beyond a percentile it is a matter of chance."""


@dataclass(frozen=True, slots=True)
class Percentile:
    """Of the time for a batch, with its 95 % interval, by the bootstrap over rounds."""

    percent: float
    ms: float
    low_ms: float
    high_ms: float

    @property
    def name(self) -> str:
        """p99, or p99_9, as a key."""
        return f"p{self.percent:g}".replace(".", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One package at one batch size. Times are for the whole batch, in milliseconds.

    p50_low, p50_high: the 95 % interval of the median, by the bootstrap over the rounds' medians.
    tail: p90 and so on; p99.9 only where enough runs lie beyond it.
    rows_per_s: batch over the median time; one caller, no queue. cpu_s_per_row: of all threads.
    against_first: the ratio to the first package of the report; None for that one itself.
    """

    label: str
    batch: int
    runs: int
    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    p95_ms: float
    p99_ms: float
    tail: tuple[Percentile, ...]
    rows_per_s: float
    row_by_row: bool
    cpu_s_per_row: float = 0.0
    against_first: Ratio | None = None
    latency: Histogram = field(repr=False)

    @property
    def unsure(self) -> list[float]:
        """The percentiles that too few runs stand for."""
        return [percent for percent in TAIL if self.runs * (1 - percent / 100) < BEYOND]

    def facts(self) -> dict[str, Any]:
        """Every figure, for the evidence and `--json`."""
        facts: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("batch", "runs", "p50_ms", "p50_low_ms", "p50_high_ms")
        }
        for found in self.tail:
            facts[f"{found.name}_ms"] = found.ms
            facts[f"{found.name}_low_ms"] = found.low_ms
            facts[f"{found.name}_high_ms"] = found.high_ms
        facts["rows_per_s"] = self.rows_per_s
        facts["cpu_s_per_row"] = self.cpu_s_per_row
        facts["row_by_row"] = self.row_by_row
        if self.against_first is not None:
            facts["against_first"] = self.against_first.facts()
        return facts


def tail(rounds: list[Array]) -> tuple[Percentile, ...]:
    """rounds: (runs,) float64 milliseconds each. Whole rounds are drawn for the intervals, since
    runs that follow each other depend on each other."""
    everything = np.concatenate(rounds)
    whole = latency(rounds)
    found = []
    for percent, value in zip(TAIL, np.percentile(everything, TAIL), strict=True):
        if percent > 99 and len(everything) * (1 - percent / 100) < BEYOND:
            continue
        interval = whole.interval_ms(percent).around(float(value))
        found.append(Percentile(percent, float(value), interval.low, interval.high))
    return tuple(found)


def latency(rounds: list[Array]) -> Histogram:
    """Rounds of milliseconds → their histogram, a stretch for each round."""
    parts = [Histogram.of(each) for each in rounds]
    return Histogram(
        np.stack([part.counts.sum(axis=0) for part in parts]),
        sum(part.sum_ns for part in parts),
        max(part.max_ns for part in parts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What is known of a package without timing its runs.

    first_ms: the first answer after it was loaded, to one row. difference: of its golden answers
    from those that the package holds, relative to their range; None where it was not looked at.
    footprint: what it takes alone in a process; None where that was not looked at. origin: as of
    `Entry`.
    """

    package: Package = field(repr=False)
    label: str
    setting: Setting
    load_ms: float
    first_ms: float
    size_bytes: int
    difference: float | None = None
    footprint: Footprint | None = None
    origin: Package | None = None

    @property
    def path(self) -> Path:
        """Of the package that was asked for."""
        return (self.origin or self.package).path

    def facts(self) -> dict[str, Any]:
        """For `--json` and the evidence."""
        manifest = self.package.manifest
        return {
            "digest": manifest.digest,
            "variant": manifest.variant,
            "engine": self.setting.engine,
            "precision": self.setting.precision,
            "threads": self.setting.threads,
            "load_ms": self.load_ms,
            "first_inference_ms": self.first_ms,
            "size_bytes": self.size_bytes,
            "golden_difference": self.difference,
            "alone": self.footprint.facts() if self.footprint else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that one run of `bench` measured, and where."""

    hardware: Hardware
    packages: tuple[Loaded, ...]
    measurements: tuple[Measurement, ...]
    excluded: tuple[Excluded, ...] = ()
    warnings: tuple[str, ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)
    asked: Asked | None = None

    @property
    def engine(self) -> str:
        """That of the first package, or all of them by name."""
        return ", ".join(dict.fromkeys(item.setting.engine for item in self.packages))

    @property
    def threads(self) -> int:
        """Of the first package."""
        return self.packages[0].setting.threads

    def of(self, label: str) -> list[Measurement]:
        """The measurements of one package, by batch size."""
        return [item for item in self.measurements if item.label == label]

    def document(self) -> dict[str, Any]:
        """What `--json` prints; docs/benchmarking.md names every field.

        schema 1, kind "engines"; asked, hardware, libraries, warnings; packages, each with label,
        path, digest, variant, engine, precision, threads, load_ms, first_inference_ms, size_bytes
        and `batches`: the figures of `Measurement`; excluded, each with label, batch and reason.
        """
        return {
            "schema": SCHEMA,
            "kind": "engines",
            "asked": msgspec.to_builtins(self.asked),
            **self._conditions(),
            "packages": [
                {
                    "label": item.label,
                    "path": str(item.path),
                    **item.facts(),
                    "batches": [self._batch(item, found) for found in self.of(item.label)],
                }
                for item in self.packages
            ],
            "excluded": [
                {"label": each.label, "batch": each.batch, "reason": each.reason}
                for each in self.excluded
            ],
        }

    def evidence(self, item: Loaded) -> dict[str, Any]:
        """What is kept in the package: schema 1, its own figures, and what `first` was."""
        summary = "; ".join(
            f"batch {found.batch}: {found.p50_ms:.3g} ms, {found.rows_per_s:,.0f} rows/s"
            for found in self.of(item.label)
        )
        first = self.packages[0]
        return {
            "schema": SCHEMA,
            "summary": summary,
            **self._conditions(),
            **item.facts(),
            "first": {"label": first.label, "digest": first.package.manifest.digest},
            "batches": [self._batch(item, found) for found in self.of(item.label)],
        }

    def _batch(self, item: Loaded, found: Measurement) -> dict[str, Any]:
        facts = found.facts()
        alone = item.footprint
        facts["peak_bytes"] = alone.peak_bytes.get(found.batch) if alone else None
        return facts

    def _conditions(self) -> dict[str, Any]:
        return {
            "hardware": msgspec.to_builtins(self.hardware),
            "libraries": self.libraries,
            "warnings": list(self.warnings),
        }

    def csv(self) -> str:
        """A line for each package and batch size."""
        names = ["label", "path", "digest", "engine", "precision", "threads", "batch", "runs"]
        names += ["p50_ms", "p50_low_ms", "p50_high_ms"]
        for percent in TAIL:
            name = f"p{percent:g}".replace(".", "_")
            names += [f"{name}_ms", f"{name}_low_ms", f"{name}_high_ms"]
        names += ["rows_per_s", "cpu_s_per_row", "row_by_row", "peak_bytes", "load_ms"]
        names += ["first_inference_ms", "size_bytes", "speed_up", "speed_up_low", "speed_up_high"]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for item in self.packages:
            for found in self.of(item.label):
                line = {
                    "label": item.label,
                    "path": item.path,
                    **item.facts(),
                    **self._batch(item, found),
                }
                ratio = found.against_first
                if ratio is not None:
                    line["speed_up"] = 1 / ratio.median
                    line["speed_up_low"], line["speed_up_high"] = 1 / ratio.high, 1 / ratio.low
                writer.writerow({name: "" if line[name] is None else line[name] for name in line})
        return text.getvalue()

    def write_csv(self, path: Path) -> None:
        """Write it, whole or not at all. Raises `PackageError` where it cannot be."""
        with writing(path), hidden_beside(path) as hidden:
            hidden.write_text(self.csv(), encoding="utf-8")
            hidden.replace(path)
