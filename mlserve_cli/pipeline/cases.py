"""Where a variant's rows come from: the package's own definition, or the files a person names.

calibration: `--calibration`, else the definition's calibration(), else its sample().
evaluation: `--data`, else the definition's evaluation(); data without targets is judged by the
agreement of its decisions with the parent's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import DataError, StepError
from mlserve_cli.package.definition import Definition, named
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.rows import cast
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.tensors import Tensors, TensorSpec, rows

if TYPE_CHECKING:
    from mlserve_cli.evaluate.evaluation import Evaluation, Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """The rows that a package is calibrated and judged with."""

    definition: Definition | None = None
    data: str | None = None
    calibration_data: str | None = None
    target: str | None = None

    @classmethod
    def of(
        cls,
        package: Package,
        *,
        data: str | None = None,
        calibration: str | None = None,
        target: str | None = None,
    ) -> Cases:
        """The cases of a package; the files named win over what its definition yields."""
        from mlserve_cli.evaluate.cases import definition_of

        return cls(
            definition=definition_of(package),
            data=data,
            calibration_data=calibration,
            target=target,
        )

    @property
    def can_judge(self) -> bool:
        """Whether there is something to measure accuracy with."""
        has = self.definition is not None and self.definition.has("evaluation")
        return self.data is not None or has

    def check(self, package: Package) -> None:
        """Raise `StepError` unless there is something to measure accuracy with.

        Rows for calibration that were named, and are none, raise `DataError`: before any work.
        """
        if not self.can_judge:
            raise StepError(
                f"there is nothing to measure the accuracy of '{package.path}' with.",
                hint="pass --data FILE: rows with targets, or without, to be held against what "
                "this package answers; or give the definition an evaluation()",
            )
        if self.calibration_data is not None and not any(
            rows(batch) for batch in self._read(package, self.calibration_data)
        ):
            raise DataError(
                f"'{self.calibration_data}' holds no rows to calibrate with.",
                hint="some hundred rows like those that will come are enough",
            )

    def calibration(self, package: Package) -> Iterable[Tensors] | None:
        """Batches of real inputs that can be gone through many times, or None."""
        if self.calibration_data is not None:
            return _Again(lambda: self._read(package, self.calibration_data or ""))
        if self.definition is None:
            return None
        definition = self.definition
        specs = package.manifest.inputs
        made_up = definition.value("MADE_UP", False)
        for function in ("calibration",) if made_up else ("calibration", "sample"):
            if definition.has(function):
                return _Again(lambda name=function: _inputs(definition, name, specs))
        return None

    def evaluate(
        self,
        package: Package,
        *,
        reference: Package,
        progress: Progress,
        watch: Watch | None = None,
    ) -> Evaluation:
        """Measure the package; without targets, how far its decisions agree with `reference`.

        watch: is shown every batch.
        """
        from mlserve_cli.evaluate import evaluation
        from mlserve_cli.evaluate.cases import from_data

        if self.data is None and self.definition is not None:
            return evaluation.by_definition(
                package, self.definition, progress=progress, watch=watch
            )
        rows = from_data(package, self.data or "", target=self.target, reference=reference)
        if self.definition is None:
            return evaluation.evaluate(package, rows, progress=progress, watch=watch)
        return evaluation.evaluate(
            package,
            rows,
            self.definition.metric,
            evaluation.metric_of(self.definition),
            progress=progress,
            watch=watch,
        )

    def _read(self, package: Package, source: str) -> Iterator[Tensors]:
        from mlserve_cli.data.source import read

        processor = processing.build(package.manifest, package.serve)
        for batch in read(source, package.manifest, processor, targets=False):
            yield batch.inputs


class _Again:
    """An iterable that begins anew each time, so that ranges and statistics see the same rows."""

    def __init__(self, begin: Any) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[Tensors]:
        return iter(self._begin())


def _inputs(
    definition: Definition, function: str, specs: tuple[TensorSpec, ...]
) -> Iterator[Tensors]:
    names = tuple(spec.name for spec in specs)
    if function == "sample":
        yield cast(named(definition.function("sample")(), names, what="sample()"), specs)
        return
    for batch in definition.batches("calibration"):
        yield cast(named(batch, names, what="a batch of calibration()"), specs)
