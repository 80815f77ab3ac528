"""Where two packages decide differently: the share of rows, and some of those rows.

A classifier decides on a class, a model of values on a value; which of the two a package is, is
told as the server tells it. Values differ where they are further apart than `SHARE_OF_RANGE`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlserve_cli.evaluate.batches import run_rows
from mlserve_cli.evaluate.cases import Decisions
from mlserve_cli.evaluate.embeddings import output_of
from mlserve_cli.evaluate.proportions import wilson
from mlserve_cli.package.definition import to_array
from mlserve_cli.package.package import Package
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.feedback.decisions import Undecided, Values, decider
from mlserve_cli.runtime.tensors import Tensors, rows

SHARE_OF_RANGE = 0.01
"""Of the range of the first package's values: what the gate allows a mean to lose by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A row on which both decide differently.

    row: counted from 1, in the order of the data. target: what is right, where that is known.
    first, second: what a client would get from each.
    """

    row: int
    target: Any
    first: Any
    second: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """On how many of n rows the decisions differ, with the share's 95 % interval (Wilson).

    rows: the first of them, at most as many as were asked for.
    """

    n: int
    different: int
    rows: tuple[Difference, ...]

    @property
    def share(self) -> float:
        """Of all rows, 0 … 1."""
        return self.different / self.n

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        ends = wilson(self.different, self.n)
        return {
            "n": self.n,
            "different": self.different,
            "share": self.share,
            "low": ends.low,
            "high": ends.high,
            "rows": [
                {"row": row.row, "target": row.target, "first": row.first, "second": row.second}
                for row in self.rows
            ],
        }

    def sentence(self) -> str:
        """For example "decisions differ on 12 of 1,000 rows: 1.20 % (95 % 0.69 … 2.09)"."""
        if not self.different:
            high = wilson(0, self.n).high
            return f"no decision of {self.n:,} differs (95 %: fewer than {high:.2%} do)"
        ends = wilson(self.different, self.n).scaled(100)
        return (
            f"decisions differ on {self.different:,} of {self.n:,} rows: "
            f"{self.share:.2%} (95 % {ends.low:.2f} … {ends.high:.2f})"
        )


class Decided:
    """Watches the first package being evaluated, and keeps what it decided."""

    def __init__(self, package: Package) -> None:
        self.package = package
        # Of an embedding no row can be shown to be otherwise: what counts is who is next to it.
        is_embedding = output_of(package.manifest) is not None
        self.decider = None if is_embedding else decider(package.manifest)
        self.found: list[Any] = []

    def __call__(self, inputs: Tensors, outputs: Tensors, targets: Any) -> None:
        """Take a batch."""
        if self.decider is not None:
            try:
                self.found += self.decider.decide(outputs, rows(inputs))
            except Undecided:
                self.decider = None


@dataclass(slots=True)
class Differences:
    """Watches the second package on the same rows; `found()` says where it decided otherwise.

    limit: how many of those rows are kept to be shown, with both answers.
    """

    first: Decided
    second: Package
    limit: int
    _decided: Decided = field(init=False)
    _kept: list[tuple[int, Tensors, Any, Tensors]] = field(init=False, default_factory=list)
    _different: int = field(init=False, default=0)
    _n: int = field(init=False, default=0)
    _apart: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._decided = Decided(self.second)
        if isinstance(self.first.decider, Values) and self.first.found:
            values = np.array(self.first.found, dtype=np.float64)
            finite = values[np.isfinite(values)]
            self._apart = SHARE_OF_RANGE * float(np.ptp(finite)) if finite.size else 0.0

    def __call__(self, inputs: Tensors, outputs: Tensors, targets: Any) -> None:
        """Take a batch."""
        self._decided.found.clear()
        self._decided(inputs, outputs, targets)
        wanted = _targets(targets, rows(inputs))
        for place, mine in enumerate(self._decided.found):
            if self._n < len(self.first.found) and self._differ(self.first.found[self._n], mine):
                self._different += 1
                if len(self._kept) < self.limit:
                    self._kept.append(
                        (
                            self._n + 1,
                            {name: array[place : place + 1] for name, array in inputs.items()},
                            None if wanted is None else wanted[place],
                            {name: array[place : place + 1] for name, array in outputs.items()},
                        )
                    )
            self._n += 1

    def found(self) -> Disagreement | None:
        """How far both disagree; None where their outputs decide nothing about a row."""
        if self.first.decider is None or self._decided.decider is None or not self._n:
            return None
        return Disagreement(n=self._n, different=self._different, rows=tuple(self._shown()))

    def _differ(self, first: Any, second: Any) -> bool:
        if not isinstance(self.first.decider, Values):
            return bool(first != second)
        left, right = np.atleast_1d(first).astype(float), np.atleast_1d(second).astype(float)
        if left.shape != right.shape:
            return True
        same = np.isclose(left, right, rtol=0.0, atol=self._apart, equal_nan=True)
        return not bool(same.all())

    def _shown(self) -> list[Difference]:
        """Both answers to the rows that were kept; the first package is run on them again."""
        if not self._kept:
            return []
        package = self.first.package
        engine = package.engine()
        try:
            before = [run_rows(engine, package.manifest, inputs) for _, inputs, _, _ in self._kept]
        finally:
            engine.close()
        return [
            Difference(
                row=number,
                target=_label(target, package),
                first=_answer(package, self.first, outputs),
                second=_answer(self.second, self._decided, others),
            )
            for (number, _, target, others), outputs in zip(self._kept, before, strict=True)
        ]


def _answer(package: Package, decided: Decided, outputs: Tensors) -> Any:
    """What a client gets where the package says how to answer; else the bare decision."""
    declared = package.manifest.processing
    if declared.output is not None or declared.python is not None:
        return processing.build(package.manifest, package.serve).answers(outputs)[0]
    if decided.decider is None:
        return None
    return decided.decider.shown(decided.decider.decide(outputs, 1)[0])


def _targets(targets: Any, count: int) -> list[Any] | None:
    """One target a row, where there are any and each is a single value."""
    if isinstance(targets, (Decisions, dict)):
        return None
    array = to_array(targets)
    if array.size != count:
        return None
    return [
        item.decode("utf-8", "replace") if isinstance(item, bytes) else item
        for item in array.reshape(-1).tolist()
    ]


def _label(target: Any, package: Package) -> Any:
    labels = package.manifest.labels
    if isinstance(target, int) and 0 <= target < len(labels):
        return labels[target]
    return target
