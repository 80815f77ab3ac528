"""Making and measuring candidates: built, timed side by side, judged, kept with what was found.

What costs least is found out first: whether a candidate can be made at all, then whether it is
faster than the float model, and only then how much accuracy it loses.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mlserve_cli.errors import MlserveError
from mlserve_cli.package import step as steps
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline import steps as table
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.variant import Gate
from mlserve_cli.runtime.tensors import Tensors
from mlserve_cli.search.candidate import Candidate
from mlserve_cli.search.store import Store
from mlserve_cli.search.trial import Accuracy, Speed, State, Trial

if TYPE_CHECKING:
    from mlserve_cli.bench.report import Measurement
    from mlserve_cli.evaluate.evaluation import Drop, Evaluation


@dataclass(slots=True, kw_only=True)
class Built:
    """A candidate that was made, and what is known of it so far."""

    candidate: Candidate
    package: Package
    trial: Trial


class Bench:
    """Where candidates of one float package are tried.

    folder: for their packages; what lies there already, from an earlier search, is not made again.
    """

    def __init__(
        self,
        parent: Package,
        *,
        folder: Path,
        store: Store,
        cases: Cases,
        gate: Gate,
        progress: Progress,
    ) -> None:
        self.parent = parent
        self.gate = gate
        self._folder = folder
        self._store = store
        self._cases = cases
        self._progress = progress
        self._before: Evaluation | None = None
        self.evaluations = 0

    def known(self, candidate: Candidate) -> Trial | None:
        """What an earlier search found of it, if its package is still there where it needs one."""
        trial = self._store.find(candidate.key)
        if trial is None or trial.state not in ("passed", "inaccurate"):
            return trial
        return trial if self.package(trial) is not None else None

    def package(self, trial: Trial) -> Package | None:
        """The package of a trial; None where it is gone or is another by now."""
        try:
            found = Package.open(self._place(trial.name))
        except MlserveError:
            return None
        return found if found.manifest.digest == trial.digest else None

    def build(self, candidate: Candidate) -> Built | Trial:
        """Make its package; a trial that failed where that cannot be."""
        began = time.monotonic()
        self._progress.stage(f"making {candidate.name}")
        place = self._place(candidate.name)
        try:
            package = self._build(candidate, place)
        except MlserveError as error:
            return self._keep(_trial(candidate, "failed", reason=error.message, began=began))
        manifest = package.manifest
        trial = _trial(
            candidate,
            "passed",
            began=began,
            digest=manifest.digest,
            variant=manifest.variant,
            size_bytes=package.size_bytes,
            invariant=manifest.batch.invariant,
        )
        return Built(candidate=candidate, package=package, trial=trial)

    def time(self, built: Sequence[Built], *, seconds: float) -> Trial:
        """Time the float package and all of `built` in one interleaved run; theirs are filled in.

        The float package's own trial is returned, without its accuracy.
        """
        from mlserve_cli.bench.engine import bench

        began = time.monotonic()
        report = bench(
            [self.parent, *(each.package for each in built)],
            batch_sizes=self.gate.batch_sizes,
            seconds=seconds,
            progress=self._progress,
        )
        spent = (time.monotonic() - began) / (len(built) + 1)
        labels = [item.label for item in report.packages]
        for each, label in zip(built, labels[1:], strict=True):
            found = report.of(label)
            each.trial = msgspec.structs.replace(
                each.trial,
                speeds=tuple(_speed(item) for item in found),
                seconds=each.trial.seconds + spent,
            )
            slower = [
                item.against_first.sentence()
                for item in found
                if item.against_first is not None and item.against_first.slower
            ]
            if slower and not self.gate.allow_slower:
                each.trial = self._keep(
                    msgspec.structs.replace(each.trial, state="slower", reason="; ".join(slower))
                )
        manifest = self.parent.manifest
        return Trial(
            key="[]",
            name="float",
            steps=(),
            state="passed",
            digest=manifest.digest,
            variant=manifest.variant,
            size_bytes=self.parent.size_bytes,
            invariant=manifest.batch.invariant,
            speeds=tuple(_speed(item) for item in report.of(labels[0])),
            seconds=spent,
        )

    def before(self) -> Evaluation:
        """The float package's accuracy, measured once."""
        if self._before is None:
            self._progress.stage("accuracy of the float model")
            self._before = self._cases.evaluate(
                self.parent, reference=self.parent, progress=self._progress
            )
        return self._before

    def judge(self, built: Built) -> Trial:
        """Measure what it loses, and keep the trial."""
        from mlserve_cli.evaluate.evaluation import drop

        began = time.monotonic()
        before = self.before()
        self._progress.stage(f"accuracy of {built.candidate.name}")
        try:
            after = self._cases.evaluate(
                built.package, reference=self.parent, progress=self._progress
            )
            lost = drop(before, after)
        except MlserveError as error:
            return self._keep(
                msgspec.structs.replace(built.trial, state="failed", reason=error.message)
            )
        self.evaluations += 1
        allowed = self.gate.allowed_drop(before)
        passed = lost.value <= allowed
        built.trial = msgspec.structs.replace(
            built.trial,
            state="passed" if passed else "inaccurate",
            reason="" if passed else lost.sentence(),
            accuracy=accuracy_of(after, lost, allowed),
            seconds=built.trial.seconds + time.monotonic() - began,
        )
        return self._keep(built.trial)

    def drop_package(self, trial: Trial) -> None:
        """Free the disk of a candidate that will not be the result."""
        place = self._place(trial.name)
        if place != self.parent.path:
            shutil.rmtree(place, ignore_errors=True)

    def calibration(self) -> Iterable[Tensors] | None:
        """The rows that candidates are made with."""
        return self._cases.calibration(self.parent)

    def _build(self, candidate: Candidate, place: Path) -> Package:
        """Step by step; only the last one gets the candidate's place."""
        package = self.parent
        for number, choice in enumerate(candidate.steps, start=1):
            last = number == len(candidate.steps)
            target = place if last else self._folder / f".{candidate.name}.{number}"
            rows = self._cases.calibration(package)
            step = table.build(choice, rows)
            before = package
            package = steps.run(
                step, before, target, sample=rows, progress=self._progress, overwrite=True
            )
            if before is not self.parent:
                shutil.rmtree(before.path, ignore_errors=True)
        return package

    def _place(self, name: str) -> Path:
        return self.parent.path if name == "float" else self._folder / name

    def _keep(self, trial: Trial) -> Trial:
        self._store.put(trial)
        return trial


def accuracy_of(found: Evaluation, lost: Drop | None, allowed: float) -> Accuracy:
    """The figures that a trial keeps."""
    return Accuracy(
        metric=found.metric.name,
        unit=found.metric.unit,
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
        drop=lost.value if lost else 0.0,
        drop_low=lost.low if lost else 0.0,
        drop_high=lost.high if lost else 0.0,
        proof=lost.proof(allowed) if lost else "",
    )


def _speed(item: Measurement) -> Speed:
    ratio = item.against_first
    return Speed(
        batch=item.batch,
        p50_ms=item.p50_ms,
        p50_low_ms=item.p50_low_ms,
        p50_high_ms=item.p50_high_ms,
        rows_per_s=item.rows_per_s,
        speed_up=1 / ratio.median if ratio else 1.0,
        speed_up_low=1 / ratio.high if ratio else 1.0,
        speed_up_high=1 / ratio.low if ratio else 1.0,
    )


def _trial(
    candidate: Candidate,
    state: State,
    *,
    began: float,
    reason: str = "",
    digest: str = "",
    variant: str = "",
    size_bytes: int = 0,
    invariant: bool = True,
) -> Trial:
    return Trial(
        key=candidate.key,
        name=candidate.name,
        steps=tuple(step.document() for step in candidate.steps),
        state=state,
        reason=reason,
        why=candidate.why,
        digest=digest,
        variant=variant,
        size_bytes=size_bytes,
        invariant=invariant,
        seconds=time.monotonic() - began,
    )
