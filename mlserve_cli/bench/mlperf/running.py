"""One scenario from beginning to end: LoadGen's process, its logs, its verdict, the answers."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mlserve_cli.bench.leash import Leash
from mlserve_cli.bench.lineup import Entry
from mlserve_cli.bench.live import checking, measuring
from mlserve_cli.bench.live.report import Subject
from mlserve_cli.bench.mlperf import local, verdict
from mlserve_cli.bench.mlperf.remote import MOST_CONNECTIONS
from mlserve_cli.bench.mlperf.task import Done, Local, Remote, Scenario, Task
from mlserve_cli.bench.mlperf.verdict import Summary
from mlserve_cli.errors import MlserveError, needs_extra
from mlserve_cli.package.draft import writing
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.tensors import Tensors

LEAST_QUERIES: dict[Scenario, int] = {
    "single-stream": 100,
    "multi-stream": 662,
    "server": 459,
    "offline": 1,
}
"""Fewer cannot be valid: early stopping says nothing of a 99th percentile before (LoadGen's
early_stopping.cc), and 100 are the `min_query_count` of its mlperf.conf. Offline has one query."""

_ACCURACY = "mlperf_log_accuracy.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How LoadGen is to ask; see `Task`. batch: the most rows that a package answers together.
    connections: the most to a server. least_queries: None for what early stopping needs."""

    scenario: Scenario
    accuracy: bool = False
    seconds: float = 10.0
    rate: float = 100.0
    latency_ms: float = 100.0
    batch: int = 32
    connections: int = MOST_CONNECTIONS
    least_queries: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Right:
    """What the answers are worth. answers: that were read. worst: the largest difference from what
    was expected, relative to its range; None where that is not known. problem: the first that was
    wrong."""

    answers: int
    worst: float | None
    tolerance: float
    problem: str | None = None

    @property
    def holds(self) -> bool | None:
        """Whether all are as expected; None where that is not known."""
        if self.problem:
            return False
        return None if self.worst is None else self.worst <= self.tolerance

    @property
    def sentence(self) -> str:
        """For a person."""
        if self.problem:
            return self.problem
        if self.worst is None:
            return f"{self.answers:,} answers, and nothing to compare them with"
        kept = "within" if self.worst <= self.tolerance else "beyond"
        return (
            f"{self.answers:,} answers differ from the golden ones by {self.worst:.2g} of their "
            f"range at most, {kept} the {self.tolerance:.2g} that is allowed"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What LoadGen found. right: in accuracy mode. doubts: as of any benchmark here."""

    label: str
    plan: Plan
    folder: Path
    summary: Summary
    failures: dict[str, int]
    right: Right | None
    doubts: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Valid by LoadGen, and by us: every sample was answered, and answers are right."""
        if self.failures:
            return False
        if self.right is not None:
            return self.right.holds is not False
        return bool(self.summary.valid)

    @property
    def sentence(self) -> str:
        """The verdict with its reason."""
        if self.failures:
            lost = "; ".join(f"{count:,} samples: {why}" for why, count in self.failures.items())
            return f"INVALID here, whatever LoadGen says ({self.summary.sentence}): {lost}"
        if self.right is not None:
            mark = {True: "right", False: "WRONG", None: "unknown"}[self.right.holds]
            return f"{mark}: {self.right.sentence}"
        return self.summary.sentence

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "label": self.label,
            "scenario": self.plan.scenario,
            "mode": "accuracy" if self.plan.accuracy else "performance",
            "passed": self.passed,
            "sentence": self.sentence,
            "logs": str(self.folder),
            "loadgen": self.summary.facts(),
            "failures": self.failures,
            "answers": None
            if self.right is None
            else {
                "count": self.right.answers,
                "worst_relative_difference": self.right.worst,
                "tolerance": self.right.tolerance,
                "problem": self.right.problem,
            },
            "warnings": list(self.doubts),
        }


def of_package(entry: Entry, plan: Plan, folder: Path, progress: Progress) -> Outcome:
    """Ask a package in LoadGen's process. Raises `MlserveError`."""
    setting = entry.setting
    target = Local(
        package=str(entry.package.path),
        engine=setting.engine,
        precision=setting.precision,
        threads=setting.threads,
        batch=plan.batch,
    )
    found = _run(target, plan, folder, entry.label, progress)
    right = _of_rows(entry.package, folder) if plan.accuracy else None
    return _outcome(entry.label, plan, folder, found, right)


def of_server(subject: Subject, plan: Plan, folder: Path, progress: Progress) -> Outcome:
    """Ask a live server, as `measuring.prepare` has found it. Raises `MlserveError`."""
    aim = measuring.aim(subject.place, subject.served, subject.questions)
    target = Remote(aim=aim, connections=plan.connections)
    found = _run(target, plan, folder, subject.label, progress)
    right = None
    if plan.accuracy:
        checked = checking.check(subject.served, subject.questions, _answers(folder))
        right = Right(checked.answers, checked.worst, checked.tolerance, checked.problem)
    doubts = list(found[1])
    if subject.place.is_local:
        doubts.append("the server shares this machine's cores with LoadGen")
    if subject.questions.synthetic:
        doubts.append(f"{subject.served.model} was asked with rows that are made up")
    return _outcome(subject.label, plan, folder, (found[0], doubts), right)


def _outcome(
    label: str, plan: Plan, folder: Path, found: tuple[Done, list[str]], right: Right | None
) -> Outcome:
    done, doubts = found
    return Outcome(
        label=label,
        plan=plan,
        folder=folder,
        summary=verdict.read(folder),
        failures=done.failures,
        right=right,
        doubts=tuple(doubts),
    )


def _run(
    target: Local | Remote, plan: Plan, folder: Path, label: str, progress: Progress
) -> tuple[Done, list[str]]:
    from mlserve_cli.bench.surroundings import Surroundings
    from mlserve_cli.runtime.hardware import detect

    with needs_extra("loadgen", "run MLPerf's scenarios"):
        import mlperf_loadgen  # noqa: F401
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    task = Task(
        target=target,
        scenario=plan.scenario,
        accuracy=plan.accuracy,
        folder=str(folder),
        seconds=plan.seconds,
        rate=plan.rate,
        latency_ms=plan.latency_ms,
        least_queries=plan.least_queries or LEAST_QUERIES[plan.scenario],
        seed=plan.seed,
    )
    mode = "accuracy" if plan.accuracy else f"at least {plan.seconds:g} s"
    progress.stage(f"LoadGen asks {label}: {plan.scenario}, {mode}")
    surroundings = Surroundings(detect())
    with (
        Leash() as leash,
        leash.start(
            "mlserve_cli.bench.mlperf.child",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours, and ends it
        ) as process,
    ):
        try:
            told, said = process.communicate(msgspec.msgpack.encode(task))
        except BaseException:
            process.kill()
            raise
    try:
        done = msgspec.msgpack.decode(told, type=Done)
    except msgspec.DecodeError as error:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise MlserveError(
            f"LoadGen's process ended with {process.returncode}: {last or 'without a word'}.",
            hint=f"its logs are in '{folder}'",
        ) from error
    if done.problem is not None:
        raise MlserveError(done.problem)
    return done, surroundings.doubts()


def _answers(folder: Path) -> list[tuple[int, bytes]]:
    """(number of the sample, its answer), as LoadGen has logged them."""
    try:
        entries = msgspec.json.decode((folder / _ACCURACY).read_bytes())
        return [(entry["qsl_idx"], bytes.fromhex(entry["data"])) for entry in entries]
    except (OSError, msgspec.DecodeError, KeyError, ValueError) as error:
        raise MlserveError(f"LoadGen's log of answers in '{folder}' cannot be read.") from error


def _of_rows(package: Package, folder: Path) -> Right:
    """Each row's answer against the golden one."""
    expected = golden.read(package.serve).outputs
    return right(expected, _answers(folder), package.manifest.tolerance)


def right(expected: Tensors, answers: Sequence[tuple[int, bytes]], tolerance: float) -> Right:
    """Answers as `local` writes them against outputs by name, a row for each sample."""
    import numpy as np

    rows: dict[int, Tensors] = {}
    for number, body in answers:
        try:
            rows[number] = local.tensors(body)
        except (MlserveError, msgspec.DecodeError, ValueError):
            return Right(len(answers), None, tolerance, f"sample {number} has no answer")
    worst = 0.0
    numbers = sorted(rows)
    for name, array in expected.items():
        if any(name not in rows[number] for number in numbers):
            return Right(len(answers), None, tolerance, f"an answer holds no '{name}'")
        found = np.concatenate([rows[number][name] for number in numbers])
        worst = max(worst, golden.relative_difference(array[numbers], found))
    return Right(len(answers), worst, tolerance)
