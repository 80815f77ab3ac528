"""What one run of `bench` measured: figures of each package at each batch size, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from mlserve_cli.bench.compare import Ratio
from mlserve_cli.package.package import Package

if TYPE_CHECKING:
    from mlserve_cli.runtime.hardware import Hardware

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One package at one batch size. Times are for the whole batch, in milliseconds.

    p50_low, p50_high: the 95 % interval of the median, by the bootstrap over the rounds' medians.
    rows_per_s: batch over the median time; one caller, no queue.
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
    rows_per_s: float
    row_by_row: bool
    against_first: Ratio | None = None

    def facts(self) -> dict[str, Any]:
        """Every figure, for the evidence and `--json`."""
        facts: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "batch",
                "runs",
                "p50_ms",
                "p50_low_ms",
                "p50_high_ms",
                "p95_ms",
                "p99_ms",
                "rows_per_s",
                "row_by_row",
            )
        }
        if self.against_first is not None:
            facts["against_first"] = self.against_first.facts()
        return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What is known of a package without timing its runs."""

    package: Package = field(repr=False)
    label: str
    digest: str
    variant: str
    load_ms: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that one run of `bench` measured, and where."""

    engine: str
    threads: int
    hardware: Hardware
    packages: tuple[Loaded, ...]
    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...]

    def of(self, label: str) -> list[Measurement]:
        """The measurements of one package, by batch size."""
        return [item for item in self.measurements if item.label == label]

    def document(self) -> dict[str, Any]:
        """What `--json` prints.

        schema 1; engine, threads, hardware; warnings; packages, each with label, digest, variant,
        load_ms, size_bytes and `batches`: the figures of `Measurement`.
        """
        return {
            "schema": SCHEMA,
            **self._conditions(),
            "packages": [
                {
                    "label": item.label,
                    "digest": item.digest,
                    "variant": item.variant,
                    "load_ms": item.load_ms,
                    "size_bytes": item.size_bytes,
                    "batches": [found.facts() for found in self.of(item.label)],
                }
                for item in self.packages
            ],
        }

    def evidence(self, item: Loaded) -> dict[str, Any]:
        """What is kept in the package: schema 1, its own figures, and what `first` was."""
        summary = "; ".join(
            f"batch {found.batch}: {found.p50_ms:.3g} ms, {found.rows_per_s:,.0f} rows/s"
            for found in self.of(item.label)
        )
        return {
            "schema": SCHEMA,
            "summary": summary,
            **self._conditions(),
            "load_ms": item.load_ms,
            "size_bytes": item.size_bytes,
            "first": {"label": self.packages[0].label, "digest": self.packages[0].digest},
            "batches": [found.facts() for found in self.of(item.label)],
        }

    def _conditions(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "threads": self.threads,
            "hardware": msgspec.to_builtins(self.hardware),
            "warnings": list(self.warnings),
        }
