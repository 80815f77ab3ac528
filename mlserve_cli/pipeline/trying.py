"""Making and measuring candidates: built, timed side by side, judged, kept with what was found.

What costs least is found out first: whether a candidate can be made at all, then whether it is
faster than the float model, and only then how much accuracy it loses.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mlserve_cli.errors import MlserveError, PackageError
from mlserve_cli.package import step as steps
from mlserve_cli.package.draft import writing
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline import cache as caches
from mlserve_cli.pipeline import steps as table
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.variant import Gate, Verdict, reasons, record
from mlserve_cli.runtime.tensors import Tensors, rows
from mlserve_cli.search.candidate import Candidate, StepChoice
from mlserve_cli.search.store import Store
from mlserve_cli.search.trial import Accuracy, Speed, State, Trial
from mlserve_cli.training.checkpoint import NO_CHECKPOINTS, Checkpoints

if TYPE_CHECKING:
    from mlserve_cli.bench.compare import Ratio
    from mlserve_cli.bench.report import Measurement
    from mlserve_cli.evaluate.evaluation import Drop, Evaluation

FLOAT = "[]"
"""The key of the float package's own trial: no steps."""

PREFIXES = ".prefixes"
"""Where the results of first steps lie, which several candidates begin with. They may have taken
hours of training, so they stay."""

TRAININGS = ".trainings"
"""Where a training that was interrupted lies, until it has ended."""


@dataclass(slots=True, kw_only=True)
class Built:
    """A candidate that was made, and what is known of it so far."""

    candidate: Candidate
    package: Package
    trial: Trial
    ratios: tuple[Ratio, ...] = ()


@dataclass(frozen=True, slots=True)
class _Judged:
    after: Evaluation
    lost: Drop
    ratios: tuple[Ratio, ...]


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
        self._judged: dict[str, _Judged] = {}
        self._trained_s = 0.0  # of the candidate that is being made
        self.evaluations = 0

    def trials(self) -> list[Trial]:
        """Of every candidate so far, this run's and those of before, in the order they came in."""
        return [trial for trial in self._store.trials() if trial.key != FLOAT]

    def named(self, candidate: Candidate) -> Candidate:
        """The candidate under a name that no other has: its package lies there."""
        known = self._store.find(candidate.key)
        if known is not None:
            return replace(candidate, name=known.name)
        taken = {trial.name for trial in self._store.trials()}
        numbers = itertools.count(1)
        name = next(name for n in numbers if (name := f"{candidate.name}-{n}") not in taken)
        return replace(candidate, name=name)

    def known(self, candidate: Candidate) -> Trial | None:
        """What an earlier search found of it, if its package is still there where it needs one."""
        trial = self._store.find(candidate.key)
        if trial is None or trial.state == "made":
            return None
        if trial.state not in ("passed", "inaccurate"):
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
        """Make its package; a trial that failed where that cannot be.

        Raises `PackageError` where the disk takes no more: that says nothing of the candidate.
        """
        began = time.monotonic()
        try:
            return self.make(candidate)
        except PackageError:
            raise
        except MlserveError as error:
            return self._keep(_trial(candidate, "failed", reason=error.message, began=began))

    def make(self, candidate: Candidate) -> Built:
        """Make its package, unless a search that was stopped has. Raises what its steps raise."""
        began = time.monotonic()
        trial = self._store.find(candidate.key)
        if trial is not None and trial.state == "made":
            package = self.package(trial)
            if package is not None:
                return Built(candidate=candidate, package=package, trial=trial)
        self._progress.stage(f"making {candidate.name}")
        self._trained_s = 0.0
        package = self._build(candidate, self._place(candidate.name))
        manifest = package.manifest
        trial = _trial(
            candidate,
            "made",
            began=began,
            digest=manifest.digest,
            variant=manifest.variant,
            size_bytes=package.size_bytes,
            invariant=manifest.batch.invariant,
            engine=manifest.engine,
            training_s=self._trained_s,
        )
        return Built(candidate=candidate, package=package, trial=self._keep(trial))

    def baseline(self, *, seconds: float) -> Trial:
        """The float package's own trial with its accuracy; timed now if it never was."""
        known = self._store.find(FLOAT)
        if known is None or known.digest != self.parent.manifest.digest:
            self.time([], seconds=seconds)
            known = self._store.find(FLOAT)
            assert known is not None  # noqa: S101 - `time` has put it there
        before = self.before()
        allowed = self.gate.allowed_drop(before)
        return msgspec.structs.replace(known, accuracy=accuracy_of(before, None, allowed))

    def time(self, built: Sequence[Built], *, seconds: float) -> None:
        """Time the float package and all of `built` in one interleaved run, and fill them in.

        Milliseconds of several runs are made comparable by what the float package took in each:
        a machine that has slowed down since the first of them has slowed it down, too.
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
        mine = tuple(_speed(item) for item in report.of(labels[0]))
        known = self._store.find(FLOAT)
        if known is None or known.digest != self.parent.manifest.digest:
            known = self._keep(self._float(mine, spent))
        then = {speed.batch: speed.p50_ms for speed in known.speeds}
        for each, label in zip(built, labels[1:], strict=True):
            found = report.of(label)
            each.ratios = tuple(item.against_first for item in found if item.against_first)
            each.trial = msgspec.structs.replace(
                each.trial,
                speeds=tuple(_speed(item, then[item.batch]) for item in found),
                seconds=each.trial.seconds + spent,
            )
            slower = [ratio.sentence() for ratio in each.ratios if ratio.slower]
            if slower and not self.gate.allow_slower:
                each.trial = msgspec.structs.replace(
                    each.trial, state="slower", reason="; ".join(slower)
                )
            self._keep(each.trial)

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
        slower = [built.trial.reason] if built.trial.state == "slower" else []
        state: State = "slower" if slower else "passed" if passed else "inaccurate"
        refusals = tuple(reasons(self.gate, before, lost, built.ratios))
        record(built.package, before, after, lost, built.ratios, refusals, allowed)
        self._judged[built.trial.key] = _Judged(after, lost, built.ratios)
        built.trial = msgspec.structs.replace(
            built.trial,
            state=state,
            reason="; ".join([*([] if passed else [lost.sentence()]), *slower]),
            accuracy=accuracy_of(after, lost, allowed),
            seconds=built.trial.seconds + time.monotonic() - began,
        )
        return self._keep(built.trial)

    def verdict(self, trial: Trial, package: Package) -> Verdict:
        """What the gates say of a trial whose package lies at `package`, as for any variant.

        A trial of an earlier run is measured once more: the store keeps no single rows.
        """
        from mlserve_cli.bench.compare import compare
        from mlserve_cli.evaluate.evaluation import drop

        before = self.before()
        judged = self._judged.get(trial.key)
        if judged is None:
            self._progress.stage(f"accuracy of {trial.name}")
            after = self._cases.evaluate(package, reference=self.parent, progress=self._progress)
            self._progress.stage("speed, side by side")
            ratios = compare(
                self.parent,
                package,
                batch_sizes=self.gate.batch_sizes,
                seconds=self.gate.seconds,
                progress=self._progress,
            )
            judged = _Judged(after, drop(before, after), tuple(ratios))
        refusals = tuple(reasons(self.gate, before, judged.lost, judged.ratios))
        return Verdict(
            parent=self.parent,
            package=package,
            before=before,
            after=judged.after,
            drop=judged.lost,
            ratios=judged.ratios,
            refusals=refusals,
            allowed=self.gate.allowed_drop(before),
        )

    def keep(self, trial: Trial) -> Trial:
        """Write down what else was found of a trial."""
        return self._keep(trial)

    def sweep(self, best: Trial) -> None:
        """What will not be the result of this search needs no place on the disk."""
        for trial in self.trials():
            if trial.state in ("failed", "slower") and trial.digest != best.digest:
                shutil.rmtree(self._place(trial.name), ignore_errors=True)

    def calibration(self, package: Package) -> Iterable[Tensors] | None:
        """The rows that a step on `package` is made with."""
        return self._cases.calibration(package)

    def before_last(self, trial: Trial) -> Package:
        """The package that the last step of a trial was taken with. Raises what steps raise."""
        *before, _ = trial.candidate.steps
        package = self.parent
        for number in range(1, len(before) + 1):
            package = self._first(trial.candidate, number, package)
        return package

    def _build(self, candidate: Candidate, place: Path) -> Package:
        """Step by step; what several candidates begin with is made once."""
        package = self.parent
        for number in range(1, len(candidate.steps)):
            package = self._first(candidate, number, package)
        return self._take(candidate.steps[-1], package, place)

    def _first(self, candidate: Candidate, number: int, package: Package) -> Package:
        """The result of step `number`, counted from 1, which is taken with `package`."""
        begun = self._begun(candidate, number)
        if begun is not None:
            return begun
        choice = candidate.steps[number - 1]
        place = self._folder / PREFIXES / caches.key(package, choice, self.calibration(package))
        kept = caches.find(place)
        if kept is not None:
            return kept
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        return self._take(choice, package, place)

    def _take(self, choice: StepChoice, package: Package, place: Path) -> Package:
        source = self.calibration(package)
        checkpoints = self._checkpoints(choice, package, source)
        made = steps.run(
            table.build(choice, source, checkpoints=checkpoints),
            package,
            place,
            sample=source if _has_rows(source) else None,
            progress=self._progress,
            overwrite=True,
        )
        checkpoints.discard()
        self._trained_s += sum(each["seconds"] for each in made.evidence("training"))
        return made

    def _checkpoints(
        self, choice: StepChoice, package: Package, source: Iterable[Tensors] | None
    ) -> Checkpoints:
        """Where a step that trains keeps what it has, for a search that is killed meanwhile."""
        if not table.trains(choice):
            return NO_CHECKPOINTS
        folder = self._folder / TRAININGS / caches.key(package, choice, source)
        return Checkpoints(folder=folder, resume=True)

    def _begun(self, candidate: Candidate, number: int) -> Package | None:
        """The package of the candidate's first steps, where that is a candidate by itself."""
        trial = self._store.find(Candidate(name="", steps=candidate.steps[:number]).key)
        return self.package(trial) if trial is not None and trial.digest else None

    def _float(self, speeds: tuple[Speed, ...], seconds: float) -> Trial:
        manifest = self.parent.manifest
        return Trial(
            key=FLOAT,
            name="float",
            steps=(),
            state="passed",
            digest=manifest.digest,
            variant=manifest.variant,
            size_bytes=self.parent.size_bytes,
            invariant=manifest.batch.invariant,
            engine=manifest.engine,
            speeds=speeds,
            seconds=seconds,
        )

    def _place(self, name: str) -> Path:
        return self.parent.path if name == "float" else self._folder / name

    def _keep(self, trial: Trial) -> Trial:
        self._store.put(trial)
        return trial


def _has_rows(source: Iterable[Tensors] | None) -> bool:
    """Whether there is one at least: a step that needs none is proven on golden rows then."""
    return any(rows(batch) for batch in source or ())


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
        proof=lost.proof(allowed) if lost else found.doubt("the float model"),
    )


def _speed(item: Measurement, float_ms: float | None = None) -> Speed:
    """float_ms: what the float package took in the first run; times the ratio of this run."""
    ratio = item.against_first
    if ratio is None or float_ms is None:
        p50, low, high = item.p50_ms, item.p50_low_ms, item.p50_high_ms
    else:
        p50, low, high = (float_ms * each for each in (ratio.median, ratio.low, ratio.high))
    return Speed(
        batch=item.batch,
        p50_ms=p50,
        p50_low_ms=low,
        p50_high_ms=high,
        rows_per_s=item.batch / p50 * 1e3,
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
    engine: str = "onnxruntime",
    training_s: float = 0.0,
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
        engine=engine,
        training_s=training_s,
        seconds=time.monotonic() - began,
    )
