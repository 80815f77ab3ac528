"""What was measured of live servers: as a document, as CSV, and what makes it doubtful."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlserve_cli.bench.live.checking import Checked
from mlserve_cli.bench.live.place import Place
from mlserve_cli.bench.live.questions import Questions
from mlserve_cli.bench.live.served import Served
from mlserve_cli.bench.live.server_side import ServerSide
from mlserve_cli.bench.load import omission
from mlserve_cli.bench.load.highest_rate import Highest
from mlserve_cli.bench.load.run import PERCENTILES, ClosedLoop, Run
from mlserve_cli.package.draft import hidden_beside, writing

if TYPE_CHECKING:
    from mlserve_cli.runtime.hardware import Hardware

SCHEMA = 1

_BEYOND = 5
"""With fewer answers beyond a percentile it is a matter of chance."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run, and what the server saw of it."""

    run: Run
    server: ServerSide | None = None

    @property
    def name(self) -> str:
        """Its load, for a table."""
        load = self.run.load
        if isinstance(load, ClosedLoop):
            return "1 user" if load.concurrency == 1 else f"{load.concurrency} users"
        return f"{load.rate:,.0f}/s" if load.rate >= 10 else f"{load.rate:g}/s"

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **self.run.facts(),
            "server": self.server.facts() if self.server else None,
            "notes": self.notes,
        }

    @property
    def notes(self) -> list[str]:
        """What is to be known of this run."""
        found = list(self.run.limits())
        hidden = omission.note(self.run)
        if hidden:
            found.append(hidden)
        return found


@dataclass(slots=True, kw_only=True, eq=False)
class Subject:
    """One server that is measured. What is measured is appended."""

    place: Place
    served: Served
    questions: Questions
    checked: Checked
    runs: list[Measured] = field(default_factory=list)
    highest: Highest | None = None
    highest_server: ServerSide | None = None

    @property
    def label(self) -> str:
        """For a table."""
        return f"{self.place.host}:{self.place.port} {self.served.model}"

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "url": self.place.url,
            "protocol": self.served.protocol,
            "model": self.served.model,
            "version": self.served.version,
            "rows_per_request": self.questions.rows,
            "inputs": self.questions.source,
            "synthetic": self.questions.synthetic,
            "checked": self.checked.facts(),
            "runs": [measured.facts() for measured in self.runs],
            "highest_rate": self.highest.facts() if self.highest else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReport:
    """Everything that one run of `bench` measured of live servers."""

    hardware: Hardware
    subjects: tuple[Subject, ...]
    surroundings: tuple[str, ...] = ()
    interrupted: bool = False

    def document(self) -> dict[str, Any]:
        """What `--json` prints.

        schema 1, kind "live"; hardware of the machine with the generator; warnings; servers, each
        with url, protocol, model, inputs, checked, `runs` (the figures of `Run`, what the server
        saw, notes) and `highest_rate`.
        """
        return {
            "schema": SCHEMA,
            "kind": "live",
            "hardware": msgspec.to_builtins(self.hardware),
            "warnings": self.warnings,
            "interrupted": self.interrupted,
            "servers": [subject.facts() for subject in self.subjects],
        }

    @property
    def warnings(self) -> list[str]:
        """What makes the figures doubtful."""
        found = list(self.surroundings)
        for subject in self.subjects:
            found += self._of(subject)
        return list(dict.fromkeys(found))

    def _of(self, subject: Subject) -> list[str]:
        found = []
        if subject.place.is_local:
            found.append("the server shares this machine's cores with the generator")
        if subject.questions.synthetic:
            found.append(f"{subject.served.model} was asked with rows that are made up")
        if subject.checked.doubt:
            found.append(subject.checked.doubt)
        runs = [measured.run for measured in subject.runs]
        if subject.highest and subject.highest.run:
            runs.append(subject.highest.run)
        failed, asked = sum(run.failures for run in runs), sum(run.sent for run in runs)
        if failed:
            found.append(f"{failed:,} of {asked:,} requests failed; latencies are of the others")
        few = min((run.latency.total for run in runs if run.latency.total), default=0)
        unsure = [f"p{percent:g}" for percent in PERCENTILES if few * (1 - percent / 100) < _BEYOND]
        if few and unsure:
            found.append(f"{' and '.join(unsure)} of {few:,} answers is a matter of chance")
        return found

    @property
    def answered(self) -> int:
        """Of all requests that counted."""
        runs = [measured.run for subject in self.subjects for measured in subject.runs]
        trials = [
            trial.run
            for subject in self.subjects
            if subject.highest
            for trial in subject.highest.trials
        ]
        return sum(run.answered for run in (*runs, *trials))

    def csv(self) -> str:
        """A line for each run."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        percents = [f"p{percent:g}_ms" for percent in PERCENTILES]
        writer.writerow(
            [
                *("url", "protocol", "model", "rows_per_request", "loop", "concurrency"),
                *("rate_per_s", "seconds", "sent", "answered", "failed", "throughput_per_s"),
                *("mean_ms", *percents, "max_ms", "objective_ms", "goodput", "mean_batch_rows"),
                "generator_busiest_share",
            ]
        )
        for subject in self.subjects:
            measured = list(subject.runs)
            if subject.highest and subject.highest.run:
                measured.append(Measured(subject.highest.run, subject.highest_server))
            for one in measured:
                writer.writerow(_line(subject, one))
        return text.getvalue()

    def write_csv(self, path: Path) -> None:
        """Write it, whole or not at all. Raises `PackageError` where it cannot be."""
        with writing(path), hidden_beside(path) as hidden:
            hidden.write_text(self.csv(), encoding="utf-8")
            hidden.replace(path)


def _line(subject: Subject, measured: Measured) -> list[Any]:
    facts, run = measured.run.facts(), measured.run
    latency = facts["latency"]
    return [
        subject.place.url,
        subject.served.protocol,
        subject.served.model,
        subject.questions.rows,
        facts["loop"],
        facts.get("concurrency", ""),
        facts.get("rate_per_s", ""),
        run.seconds,
        run.sent,
        run.answered,
        run.failures,
        run.throughput,
        latency["mean_ms"],
        *(latency[f"p{percent:g}_ms"] for percent in PERCENTILES),
        latency["max_ms"],
        facts.get("objective_ms", ""),
        facts.get("goodput", ""),
        measured.server.mean_batch_rows if measured.server else "",
        run.busiest,
    ]
