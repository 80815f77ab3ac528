"""Measure live servers: find out what they serve, ask, check, load, and look at the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mlserve_cli.bench.live import checking, questions, rpc, server_side
from mlserve_cli.bench.live.discovery import discover
from mlserve_cli.bench.live.place import Place, parse
from mlserve_cli.bench.live.questions import Questions
from mlserve_cli.bench.live.report import LiveReport, Measured, Subject
from mlserve_cli.bench.live.served import Protocol, Served
from mlserve_cli.bench.live.server_side import ServerSide
from mlserve_cli.bench.load import highest_rate
from mlserve_cli.bench.load.generator import TIMEOUT_S, WARM_UP_S, Generator
from mlserve_cli.bench.load.highest_rate import Objective
from mlserve_cli.bench.load.job import Aim
from mlserve_cli.bench.load.run import Load, Run
from mlserve_cli.package.progress import Progress, Silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be measured, and with what.

    loads: one run each. objective: of every run's goodput; with `find_rate`, what the highest rate
    is searched for. seconds: of each run.
    """

    loads: Sequence[Load] = ()
    objective: Objective | None = None
    find_rate: bool = False
    seconds: float = 5.0
    warm_up_s: float = WARM_UP_S
    timeout_s: float = TIMEOUT_S
    processes: int = 1
    protocol: Protocol | None = None
    model: str | None = None
    data: str | None = None
    package: Path | None = None
    batch: int = 1
    seed: int = 0


def aim(place: Place, served: Served, asked: Questions) -> Aim:
    """The requests as bytes, and where they go."""
    grpc = served.protocol == "oip-grpc"
    return Aim(
        kind="grpc" if grpc else "http",
        host=place.host,
        port=place.port,
        tls=place.tls,
        ca=place.ca,
        messages=[
            request.body if grpc else request.http(place, served.path) for request in asked.requests
        ],
        method=rpc.INFER,
        metadata=rpc.metadata(place) if grpc else [],
    )


def prepare(url: str, wish: Wish, *, key: str | None = None, ca: str | None = None) -> Subject:
    """Find out what a server serves, and try a few requests. Raises `MlserveError`."""
    place = parse(url, key=key, ca=ca, patience_s=wish.timeout_s)
    served = discover(place, protocol=wish.protocol, model=wish.model)
    asked = questions.gather(
        place, served, batch=wish.batch, data=wish.data, package=wish.package, seed=wish.seed
    )
    checked = checking.try_out(place, served, asked)
    return Subject(place=place, served=served, questions=asked, checked=checked)


def measure(
    urls: Sequence[str],
    wish: Wish,
    *,
    key: str | None = None,
    ca: str | None = None,
    progress: Progress | None = None,
) -> LiveReport:
    """Measure each server under each load; several servers take turns at every load.

    Ctrl-C ends it early, and what was measured until then is in the report. Raises `MlserveError`
    for a server that cannot be asked.
    """
    from mlserve_cli.bench.surroundings import Surroundings
    from mlserve_cli.runtime.hardware import detect

    progress = progress or Silent()
    subjects = [prepare(url, wish, key=key, ca=ca) for url in urls]
    hardware = detect()
    surroundings = Surroundings(hardware)
    interrupted = False
    with ExitStack() as stack:
        generators = [
            stack.enter_context(
                Generator(
                    aim(subject.place, subject.served, subject.questions), processes=wish.processes
                )
            )
            for subject in subjects
        ]
        for _ in _turns(subjects, generators, wish, progress):
            interrupted = any(_interrupted(subject) for subject in subjects)
            if interrupted:
                break
    return LiveReport(
        hardware=hardware,
        subjects=tuple(subjects),
        surroundings=tuple(surroundings.doubts()),
        interrupted=interrupted,
    )


def _turns(
    subjects: Sequence[Subject],
    generators: Sequence[Generator],
    wish: Wish,
    progress: Progress,
) -> Iterator[None]:
    progress.stage("measuring", total=len(wish.loads) * len(subjects))
    for load in wish.loads:
        for subject, generator in zip(subjects, generators, strict=True):
            _load(subject, generator, load, wish)
            progress.advance(note=f"{subject.label}, {subject.runs[-1].name}")
            yield
    if wish.find_rate and wish.objective is not None:
        for subject, generator in zip(subjects, generators, strict=True):
            _search(subject, generator, wish.objective, wish, progress)
            yield


def _load(subject: Subject, generator: Generator, load: Load, wish: Wish) -> None:
    # The warm-up is in the server's figures as well, which are means: half a second of many.
    before = server_side.scrape(subject.place, subject.served)
    run = generator.run(
        load,
        seconds=wish.seconds,
        warm_up_s=wish.warm_up_s,
        timeout_s=wish.timeout_s,
        objective_ms=wish.objective.latency_ms if wish.objective else None,
    )
    after = server_side.scrape(subject.place, subject.served)
    subject.runs.append(Measured(run, server_side.between(before, after)))
    subject.checked += checking.check(subject.served, subject.questions, run.samples)


def _search(
    subject: Subject, generator: Generator, objective: Objective, wish: Wish, progress: Progress
) -> None:
    watching = _Watching(subject, generator)
    found = highest_rate.find(
        watching,
        objective,
        seconds=wish.seconds,
        timeout_s=wish.timeout_s,
        seed=wish.seed,
        progress=progress,
    )
    subject.highest = found
    if found.run is not None:
        subject.highest_server = watching.last
        subject.checked += checking.check(subject.served, subject.questions, found.run.samples)


class _Watching:
    """A generator beside which the server is asked for its metrics."""

    def __init__(self, subject: Subject, generator: Generator) -> None:
        self._subject, self._generator = subject, generator
        self.last: ServerSide | None = None

    def run(
        self,
        load: Load,
        *,
        seconds: float,
        timeout_s: float = TIMEOUT_S,
        objective_ms: float | None = None,
        give_up_over: int = 0,
    ) -> Run:
        """Send a load."""
        place, served = self._subject.place, self._subject.served
        before = server_side.scrape(place, served)
        run = self._generator.run(
            load,
            seconds=seconds,
            timeout_s=timeout_s,
            objective_ms=objective_ms,
            give_up_over=give_up_over,
        )
        self.last = server_side.between(before, server_side.scrape(place, served))
        return run


def _interrupted(subject: Subject) -> bool:
    runs = [measured.run for measured in subject.runs]
    if subject.highest is not None:
        runs += [trial.run for trial in subject.highest.trials]
        if subject.highest.capacity is not None:
            runs.append(subject.highest.capacity)
    return any(run.interrupted for run in runs)
