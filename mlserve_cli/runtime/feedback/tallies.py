"""How right each version was, by the part of the traffic that it answered, for Prometheus.

Prometheus' counters may only grow. So a truth that is corrected takes nothing back: what it had
counted before is counted once more, as withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .decisions import Agreement, Verdict

Key = tuple[str, str, str]
"""Model, version, arm."""

_LABELS = ("model", "version", "arm")


@dataclass(slots=True)
class Counts:
    """Rows with a verdict. Classes: agreed, differed. Values: their number and errors' sums."""

    agreed: int = 0
    differed: int = 0
    values: int = 0
    absolute: float = 0.0
    squared: float = 0.0

    def add(self, verdict: Verdict) -> None:
        """Count one row."""
        if isinstance(verdict, Agreement):
            if verdict.right:
                self.agreed += 1
            else:
                self.differed += 1
        else:
            self.values += 1
            self.absolute += verdict.absolute
            self.squared += verdict.squared


@dataclass(slots=True)
class Tally:
    """What truth has said of one version in one arm."""

    given: Counts = field(default_factory=Counts)
    withdrawn: Counts = field(default_factory=Counts)

    @property
    def net(self) -> Counts:
        """What holds after all corrections."""
        return total([self.given], minus=[self.withdrawn])


def total(plus: Iterable[Counts], *, minus: Iterable[Counts] = ()) -> Counts:
    """The sum of counts; sums of errors stay at 0 or above, whatever rounding leaves."""
    found = Counts()
    for sign, several in ((1, plus), (-1, minus)):
        for each in several:
            found.agreed += sign * each.agreed
            found.differed += sign * each.differed
            found.values += sign * each.values
            found.absolute += sign * each.absolute
            found.squared += sign * each.squared
    found.absolute, found.squared = max(0.0, found.absolute), max(0.0, found.squared)
    return found


def facts(counts: Counts) -> dict[str, Any]:
    """Counts as the admin API shows them."""
    joined = counts.agreed + counts.differed
    found: dict[str, Any] = {"joined": joined + counts.values}
    if joined:
        found |= {"classes": joined, "agreed": counts.agreed, "accuracy": counts.agreed / joined}
    if counts.values:
        found |= {
            "values": counts.values,
            "mean_absolute_error": counts.absolute / counts.values,
            "root_mean_squared_error": (counts.squared / counts.values) ** 0.5,
        }
    return found


class Tallies(Collector):
    """Every tally of a server, and what became of each truth that was sent."""

    def __init__(self) -> None:
        self.of: dict[Key, Tally] = {}
        self.results: dict[tuple[str, str], int] = {}  # model, result → truths
        self.remembered: dict[str, int] = {}  # model → rows

    def tally(self, key: Key) -> Tally:
        """The tally of one version in one arm; it goes on where it was."""
        found = self.of.get(key)
        if found is None:
            found = self.of[key] = Tally()
        return found

    def count(self, model: str, result: str) -> None:
        """A truth was sent, and that became of it."""
        key = (model, result)
        self.results[key] = self.results.get(key, 0) + 1

    def version(self, model: str, version: str) -> dict[str, Any] | None:
        """How right a version was, in all and by arm; None before the first truth."""
        arms = {
            arm: tally.net
            for (name, each, arm), tally in self.of.items()
            if (name, each) == (model, version)
        }
        every = facts(total(arms.values()))
        if not every["joined"]:
            return None
        shown = {arm: facts(net) for arm, net in sorted(arms.items())}
        return every | {"arms": {arm: each for arm, each in shown.items() if each["joined"]}}

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield self._results()
        remembered = GaugeMetricFamily(
            "mlserve_feedback_remembered_rows",
            "Rows of answers that a truth can still be joined to.",
            labels=("model",),
        )
        for model, rows in self.remembered.items():
            remembered.add_metric((model,), rows)
        yield remembered
        tallies = list(self.of.items())
        yield from _counted([(key, tally.given) for key, tally in tallies], "", "")
        corrected = [(key, tally.withdrawn) for key, tally in tallies if _any(tally.withdrawn)]
        yield from _counted(corrected, "withdrawn_", " Counted before a correction.")
        yield from _quality([(key, facts(tally.net)) for key, tally in tallies])

    def _results(self) -> Metric:
        results = CounterMetricFamily(
            "mlserve_feedback_truths",
            "Truths that were sent, by what became of them: joined, corrected, duplicate, or not "
            "joined: unseen, forgotten, row, truth.",
            labels=("model", "result"),
        )
        for key, count in self.results.items():
            results.add_metric(key, count)
        return results


def _any(counts: Counts) -> bool:
    return bool(counts.agreed or counts.differed or counts.values)


def _counted(tallies: list[tuple[Key, Counts]], prefix: str, more: str) -> Iterator[Metric]:
    """The counters of classes and of values."""

    def family(name: str, text: str, *labels: str) -> CounterMetricFamily:
        return CounterMetricFamily(
            f"mlserve_feedback_{prefix}{name}", text + more, labels=(*_LABELS, *labels)
        )

    rows = family("rows", "Rows whose class the truth agrees with, or not.", "result")
    values = family("values", "Rows whose value the truth is known of.")
    absolute = family("absolute_error", "Sum of the absolute errors of those values.")
    squared = family("squared_error", "Sum of the squared errors of those values.")
    for key, counts in tallies:
        if counts.agreed or counts.differed:
            rows.add_metric((*key, "agree"), counts.agreed)
            rows.add_metric((*key, "differ"), counts.differed)
        if counts.values:
            values.add_metric(key, counts.values)
            absolute.add_metric(key, counts.absolute)
            squared.add_metric(key, counts.squared)
    return (each for each in (rows, values, absolute, squared) if each.samples)


def _quality(tallies: list[tuple[Key, dict[str, Any]]]) -> Iterator[Metric]:
    """What the counters come to, corrections taken in."""
    for name, text in (
        ("accuracy", "Share of the rows with a truth whose class was right, since the start."),
        ("mean_absolute_error", "Mean distance of values from the truth, since the start."),
    ):
        gauge = GaugeMetricFamily(f"mlserve_feedback_{name}", text, labels=_LABELS)
        for key, found in tallies:
            if name in found:
                gauge.add_metric(key, found[name])
        if gauge.samples:
            yield gauge
