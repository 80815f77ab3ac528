"""What `mlserve evaluate` does: find the cases, measure, keep the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlserve_cli.errors import StepError
from mlserve_cli.evaluate import cases
from mlserve_cli.evaluate.evaluation import Evaluation, evaluate, metric_of
from mlserve_cli.evaluate.wording import range_of, with_unit
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """An evaluation, of what, on what."""

    package: Package
    evaluation: Evaluation
    source: str

    def facts(self) -> dict[str, Any]:
        """The evidence: the evaluation's figures and `source`, what the rows came from."""
        return self.evaluation.facts() | {"source": self.source}

    def document(self) -> dict[str, Any]:
        """What `--json` prints: the evidence, and `package`, `variant` and `digest` of what."""
        manifest = self.package.manifest
        return {
            "schema": SCHEMA,
            "package": str(self.package.path),
            "variant": manifest.variant,
            "digest": manifest.digest,
            **self.facts(),
        }

    def row(self) -> tuple[str, str, str, str, str]:
        """Package, metric, value, interval and rows, as the table shows them."""
        found = self.evaluation
        ends = range_of(found.low, found.high, found.metric).removeprefix("95 % ")
        value = with_unit(found.value, found.metric)
        return self.package.label, found.metric.name, value, ends, str(found.n)


def measure(
    path: Path,
    *,
    data: str | None,
    target: str | None,
    reference: Path | None,
    progress: Progress,
    keep: bool = True,
) -> Evaluated:
    """Evaluate the package at `path` and append the result to its evidence, unless not to keep.

    Raises `StepError` when there is nothing to evaluate with, and what `evaluate` raises.
    """
    package = Package.open(path)
    other = Package.open(reference) if reference else None
    definition = cases.definition_of(package)
    rows: Iterator[cases.Case]
    if data is not None:
        source = data
        if other is not None:
            rows = cases.from_reference(other, cases.inputs_of(package, data))
        else:
            rows = cases.from_data(package, data, target=target)
    elif definition is not None and definition.has("evaluation"):
        source = "evaluation() of the definition"
        names = tuple(spec.name for spec in package.manifest.inputs)
        rows = cases.from_definition(definition, names)
        if other is not None:
            rows = cases.from_reference(other, (inputs for inputs, _ in rows))
    else:
        raise StepError(
            f"there is nothing to evaluate '{path}' with: "
            + (
                "its definition has no evaluation()."
                if definition
                else "it holds no model definition."
            ),
            hint="pass --data FILE, rows with targets",
        )
    if other is not None:
        source = f"{source}, against the decisions of {other.label}"
    progress.stage(f"evaluating {package.label}")
    found = evaluate(
        package,
        rows,
        definition.metric if definition else None,
        metric_of(definition) if definition else None,
        progress=progress,
    )
    evaluated = Evaluated(package=package, evaluation=found, source=source)
    if keep:
        facts = {"summary": found.sentence(), **evaluated.facts()}
        package.keep_evidence("accuracy", facts, progress)
    return evaluated
