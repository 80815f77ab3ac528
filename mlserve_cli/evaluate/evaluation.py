"""A package's metric over cases, with its 95 % interval, and the loss between two packages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlserve_cli.errors import DataError, StepError
from mlserve_cli.evaluate.batches import run_rows
from mlserve_cli.evaluate.cases import Case, Decisions, from_definition
from mlserve_cli.evaluate.constant import Constant
from mlserve_cli.evaluate.embeddings import Neighbours
from mlserve_cli.evaluate.metrics import COSINE
from mlserve_cli.evaluate.proportions import mcnemar, paired_difference, wilson
from mlserve_cli.evaluate.scores import Scores
from mlserve_cli.evaluate.wording import range_of, with_unit
from mlserve_cli.package.definition import Definition, Metric
from mlserve_cli.package.interval import Interval, bootstrap, percentile
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress, Silent
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.tensors import Array, Tensors, rows

SCHEMA = 1

Watch = Callable[[Tensors, Tensors, Any], None]
"""(inputs, outputs, targets) of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured of one package; value, low and high are in the metric's unit.

    method: how the interval was found.
    nan_rows: rows for which an output held NaN; with a 0/1 metric they count as wrong.
    per_sample: (n,) float64, the values before they were scaled to the unit; None for a metric
        that is one number for all.
    resampled: (resamples,) float64, that number for each seeded draw of rows, not scaled.
    fingerprint: of the targets, so that only evaluations of the same rows are compared.
    constant: what always answering the commonest class would reach; None where rows have none.
    neighbours: of embeddings, how many rows keep their nearest; None of anything else.
    spread: the range of the parent's values, where those are the targets; else None.
    """

    metric: Metric
    n: int
    value: float
    low: float
    high: float
    method: str
    nan_rows: int = 0
    fingerprint: str = ""
    constant: Constant | None = None
    neighbours: Neighbours | None = None
    spread: float | None = None
    per_sample: Array | None = field(default=None, repr=False)
    resampled: Array | None = field(default=None, repr=False)

    def facts(self) -> dict[str, Any]:
        """What goes into the evidence and what `--json` prints.

        schema 1; metric, unit, higher_is_better; value with low and high, its 95 % interval by
        `interval`; n rows, nan_rows of them answered with NaN; fingerprint of their targets;
        constant, the commonest class of them and its share; doubt, "" where there is none;
        neighbours, of embeddings the rows that keep their nearest.
        """
        return {
            "schema": SCHEMA,
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "higher_is_better": self.metric.higher_is_better,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "interval": f"95 %, {self.method}",
            "n": self.n,
            "nan_rows": self.nan_rows,
            "fingerprint": self.fingerprint,
            "constant": self.constant.facts() if self.constant else None,
            "neighbours": self.neighbours.facts() if self.neighbours else None,
            "doubt": self.doubt(),
        }

    def doubt(self, subject: str = "the model") -> str:
        """A sentence where the model is not shown to beat always answering the commonest class.

        With the labels of other rows it is right now and then, and so is every variant of it: no
        loss is to be seen. "" where the whole interval lies above that share, or nothing is known.
        """
        if self.constant is None or self.low > self.constant.share * self.metric.scale:
            return ""
        right = self.value / self.metric.scale
        return (
            f"{subject} is right in {right:.1%} of the rows, and always answering "
            f"'{self.constant.label}' would be in {self.constant.share:.1%}: the labels or their "
            "order may be wrong; a loss measured with them proves nothing"
        ).replace("%", " %")

    def sentence(self) -> str:
        """For example "accuracy 97.30 points (95 % 96.10 … 98.13), n = 1000"."""
        value = with_unit(self.value, self.metric)
        text = f"{self.metric.name} {value} ({range_of(self.low, self.high, self.metric)})"
        nan = f", {self.nan_rows} of them answered with NaN" if self.nan_rows else ""
        return f"{text}, n = {self.n}{nan}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """What was lost between two packages on the same rows, in the metric's unit; more is worse.

    p_value: of McNemar's exact test, where answers are right or wrong; else None.
    doubt: why the rows say nothing, however narrow the interval is; "" where they do.
    """

    value: float
    low: float
    high: float
    n: int
    metric: Metric
    method: str
    p_value: float | None = None
    doubt: str = ""

    def proves(self, limit: float) -> bool:
        """Whether the whole interval lies at or below `limit`: the loss is no larger at 95 %."""
        return self.high <= limit and not self.doubt

    def rows_to_prove(self, limit: float) -> int | None:
        """How many rows like these would prove a loss of at most `limit`; None: no number would.

        An interval narrows with the square root of the rows, so what is wanted is the number at
        which its half is as wide as what lies between the loss and the limit. Where not one answer
        changed that is a guess from the interval alone, and rather too many.
        """
        room = limit - self.value
        if room <= 0 or self.doubt:
            return None
        return max(self.n, math.ceil(self.n * ((self.high - self.value) / room) ** 2))

    def proof(self, limit: float) -> str:
        """A sentence on what the interval says of `limit`: proven, not proven, lost, or nothing."""
        allowed = with_unit(limit, self.metric)
        if self.proves(limit):
            return f"that the loss is at most {allowed} is proven at 95 %"
        if self.value > limit:
            return "; ".join(filter(None, (f"the loss is not within {allowed}", self.doubt)))
        if self.doubt:
            return self.doubt
        needed = self.rows_to_prove(limit)
        if needed is None:  # the loss is the limit itself
            return f"a loss of at most {allowed} is measured, and no number of rows would prove it"
        return (
            f"a loss of at most {allowed} is likely but not proven at 95 %: "
            f"that takes about {needed:,} rows like these"
        )

    def facts(self) -> dict[str, Any]:
        """The figures for the evidence and `--json`: schema 1; a positive value is a loss."""
        return {
            "schema": SCHEMA,
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "interval": f"95 %, {self.method}",
            "n": self.n,
            "p_value": self.p_value,
            "doubt": self.doubt,
        }

    def sentence(self) -> str:
        """For example "loss 0.30 points (95 % -0.12 … 0.72), n = 1000", with a true minus sign."""
        sign, word = (-1.0, "gain") if self.value < 0 else (1.0, "loss")
        ends = Interval(self.low, self.high).scaled(sign)
        value = with_unit(abs(self.value), self.metric)
        return f"{word} {value} ({range_of(ends.low, ends.high, self.metric)}), n = {self.n}"


def evaluate(
    package: Package,
    cases: Iterable[Case],
    metric: Metric | None = None,
    function: Callable[[Any, Any], Any] | None = None,
    *,
    engine: Engine | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Evaluation:
    """Run a package over `cases` and measure `metric` with its 95 % interval.

    function: the definition's metric(outputs, targets), which gets the one output as an array, or
    several by name; text is given as str. It returns one value a row, (batch,); or one number,
    and then the whole set is held in memory and the number is bootstrapped over its rows. Without
    it a built-in metric is chosen by the targets.
    engine: run this one and leave it open; otherwise the package's own is loaded and closed.
    watch: is shown every batch: its inputs, the outputs and the targets.

    Raises `DataError` for cases that do not fit, `DefinitionError` for a metric() that does not
    answer what it should, `StepError` when the model fails or the metric has no value.
    """
    progress = progress or Silent()
    scores = Scores(package.manifest, metric, function)
    running = engine or package.engine()
    try:
        for inputs, targets in cases:
            outputs = run_rows(running, package.manifest, inputs)
            if watch is not None:
                watch(inputs, outputs, targets)
            if isinstance(targets, Decisions):
                scores.take(outputs, targets.values, agreement=True)
            else:
                scores.take(outputs, targets)
            progress.advance(rows(inputs))
    finally:
        if engine is None:
            running.close()
    if not scores.n:
        raise DataError(
            "there is nothing to evaluate with: the evaluation data has no rows.",
            hint="evaluation() yields batches of (inputs, targets)",
        )
    return _measured(scores)


def by_definition(
    package: Package,
    definition: Definition,
    *,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Evaluation:
    """Measure a package with its definition's evaluation(), metric() and METRIC."""
    names = tuple(spec.name for spec in package.manifest.inputs)
    cases = from_definition(definition, names)
    return evaluate(
        package, cases, definition.metric, metric_of(definition), progress=progress, watch=watch
    )


def metric_of(definition: Definition) -> Callable[[Any, Any], Any] | None:
    """The definition's metric(), or None where the built-in ones are to be taken."""
    return definition.function("metric") if definition.has("metric") else None


def drop(before: Evaluation, after: Evaluation) -> Drop:
    """What `after` lost against `before`, paired by row: positive is worse.

    0/1 values: the adjusted interval of Agresti and Min. Other values a row: the bootstrap of
    their differences. One number for all: the differences of both over the same draws of rows.
    Raises `DataError` when the two were not measured on the same rows with the same metric.
    """
    _check_pair(before, after)
    metric = before.metric
    # In this direction more is worse, whatever the metric says.
    sign = metric.scale if metric.higher_is_better else -metric.scale
    value = (before.value - after.value) * (1.0 if metric.higher_is_better else -1.0)
    p_value = None
    if before.per_sample is not None and after.per_sample is not None:
        first, second = before.per_sample, after.per_sample
        if _is_binary(first, metric) and _is_binary(second, metric):
            lost = int(np.count_nonzero(first > second))
            won = int(np.count_nonzero(first < second))
            interval, method = paired_difference(lost, won, before.n), "Agresti-Min, paired"
            p_value = mcnemar(lost, won)
        else:
            interval, method = bootstrap(first - second, np.mean), "paired bootstrap"
    elif before.resampled is not None and after.resampled is not None:
        interval, method = percentile(before.resampled - after.resampled), "paired bootstrap"
    else:
        raise DataError(
            f"metric() gave one value a row for one package and one number for the other, "
            f"so '{metric.name}' cannot be compared."
        )
    ends = interval.scaled(sign).around(value)
    return Drop(
        value=value,
        low=ends.low,
        high=ends.high,
        n=before.n,
        metric=metric,
        method=method,
        p_value=p_value,
        doubt=before.doubt("the model that it is compared with"),
    )


def _measured(scores: Scores) -> Evaluation:
    metric, n = scores.metric, scores.n
    values = scores.per_sample()
    resampled = None
    if values is None:
        point, resampled = scores.whole()
        interval, method = percentile(resampled).around(point), "bootstrap"
    elif _is_binary(values, metric):
        point = float(values.mean())
        interval, method = wilson(int(values.sum()), n), "Wilson"
    else:
        point = float(values.mean())
        interval, method = bootstrap(values, np.mean), "bootstrap"
    if not np.isfinite(point):
        raise StepError(
            f"'{metric.name}' has no value on these {n} rows: it is {point}; the model answers NaN "
            f"for {scores.nan_rows} of them.",
            hint="look at those rows, or let metric() say what such an answer is worth",
        )
    ends = interval.scaled(metric.scale)
    return Evaluation(
        metric=metric,
        n=n,
        value=point * metric.scale,
        low=ends.low,
        high=ends.high,
        method=method,
        nan_rows=scores.nan_rows,
        fingerprint=scores.fingerprint(),
        constant=scores.constant(),
        neighbours=scores.neighbours(),
        spread=scores.spread(),
        per_sample=values,
        resampled=resampled,
    )


def _is_binary(values: Array, metric: Metric) -> bool:
    """Whether answers are right or wrong; a cosine of 1 is only as large as it can be."""
    return metric.name != COSINE.name and bool(np.isin(values, (0.0, 1.0)).all())


def _check_pair(before: Evaluation, after: Evaluation) -> None:
    if before.n != after.n:
        raise DataError(
            f"the two evaluations cannot be paired: one has {before.n} rows, the other {after.n}.",
            hint="evaluate both on the same data",
        )
    if before.metric != after.metric:
        raise DataError(
            "the two evaluations cannot be paired: one measures "
            f"{_name_of(before.metric)}, the other {_name_of(after.metric)}."
        )
    if before.fingerprint != after.fingerprint:
        raise DataError(
            "the two evaluations cannot be paired: their targets differ, so the rows are not the "
            "same or not in the same order.",
            hint="evaluation() must yield the same rows in the same order each time; seed it",
        )


def _name_of(metric: Metric) -> str:
    """The metric's name with its unit, as a sentence names it."""
    return f"'{metric.name}' in {metric.unit}" if metric.unit else f"'{metric.name}'"
