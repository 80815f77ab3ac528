"""An objective turned into the numbers of a server: a model proposes, measurement decides.

1. The engine is timed alone and a server of the package under two loads (`pipeline.capacity`).
2. Every sizing that is worth it is played through (`search.serving`).
3. The most promising are tried: a server each, under the load that is wished for.
4. The best goes into `server.toml`, with the reason for each number.
5. A server is started from that file, and what was predicted is held against what it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from mlserve_cli.bench.engine import doubts
from mlserve_cli.bench.load import OpenLoop, Run, highest_rate
from mlserve_cli.bench.load.highest_rate import Objective
from mlserve_cli.errors import StepError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline import capacity
from mlserve_cli.pipeline.capacity import Capacity
from mlserve_cli.pipeline.trial_server import TrialServer
from mlserve_cli.runtime.hardware import Hardware, detect
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.search import serving
from mlserve_cli.search.serving import Promise, Wish

TRIALS = 3
SECONDS = 4.0

KEPT = 0.95
"""Of what was sent, what must be answered: the last ones of a run are answered after its end."""

AIR = 0.85
"""Of the highest rate that kept the limit once: from there a few percent more make the p99 several
times as long, and a plan has to hold on a worse day, too."""

_MIB = 1 << 20
_BATCHES_HELD = 3  # per instance: the buffer, what comes out, and what is being sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Requests a second, their p99, and the most memory of the server.

    rate: that was asked for. sent: what came of it, as arrivals are random.
    """

    rate: float
    sent: float
    throughput: float
    p99_ms: float
    peak_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A sizing that was tried for real. promised_ms: what the model said its p99 would be."""

    sizing: Sizing
    promised_ms: float
    seen: Figures
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plan for one package. observed: None where it was not verified."""

    package: Package
    wish: Wish
    capacity: Capacity
    sizing: Sizing
    predicted: Figures
    observed: Figures | None
    trials: tuple[Trial, ...]
    highest_rate: float
    remedies: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Whether the wish is kept, by what was observed, or else by what is predicted."""
        seen = self.observed or self.predicted
        if not seen.throughput:
            return False
        if seen.p99_ms > self.wish.p99_ms:
            return False
        return seen.throughput >= KEPT * seen.sent

    def settings(self, base: Settings | None = None) -> Settings:
        """What the server needs; on top of what else is set."""
        base = base or Settings()
        sizings = base.sizing | {self.package.manifest.name: self.sizing}
        return msgspec.structs.replace(base, sizing=sizings)


def plan(
    packages: Sequence[Package],
    wish: Wish,
    *,
    seconds: float = SECONDS,
    trials: int = TRIALS,
    verify: bool = True,
    progress: Progress,
    hardware: Hardware | None = None,
) -> Planned:
    """The plan of the first package that keeps the wish; of the one that comes nearest, if none.

    seconds: of each run under load. Raises `StepError` where a package cannot take such requests.
    """
    hardware = hardware or detect()
    for package in packages:
        _check(package, wish)
    best: Planned | None = None
    for package in packages:
        found = _plan(package, wish, hardware, seconds, trials, verify, progress)
        if found.met and wish.rate is not None:
            return found
        if best is None or (found.met, found.highest_rate) > (best.met, best.highest_rate):
            best = found
    if best is None:
        raise StepError("there is no package to plan for.")
    return best


def _check(package: Package, wish: Wish) -> None:
    manifest = package.manifest
    most = manifest.fixed_batch or manifest.batch.max_batch
    if most is not None and wish.rows > most:
        raise StepError(
            f"'{package.path}' takes {most} row{'s' if most > 1 else ''} at once, and requests "
            f"of {wish.rows} were asked for.",
            hint=f"--rows {most}",
        )


def _plan(
    package: Package,
    wish: Wish,
    hardware: Hardware,
    seconds: float,
    trials: int,
    verify: bool,
    progress: Progress,
) -> Planned:
    known = capacity.measure(
        package, hardware, rows_each=wish.rows, seconds=max(1.0, seconds / 3), progress=progress
    )
    manifest = package.manifest
    most = manifest.fixed_batch or manifest.batch.max_batch
    progress.stage("playing through what there is")
    found = list(
        serving.sizings(
            known.base,
            known.service,
            cores=hardware.physical_cores,
            largest=max(known.largest, wish.rows),
            only=most,
        )
    )
    promises = serving.promises(found, known.service, wish)
    progress.say(
        f"{manifest.name}: {len(found)} ways to run it played through; "
        f"{min(trials, len(promises))} of them are tried"
    )
    tried = [
        _try(package, promise, wish, seconds, progress) for promise in promises[: max(1, trials)]
    ]
    chosen = _best(tried, wish)
    promise = next(each for each in promises if each.sizing is chosen.sizing)
    highest = chosen.seen.rate
    if highest > 0 and (verify or wish.rate is None):
        # The best of several short runs looks better than it is: what is predicted is from a
        # longer one of its own.
        rate = AIR * highest if wish.rate is None else wish.rate
        chosen = _try(
            package, replace(promise, rate=rate), replace(wish, rate=rate), 2 * seconds, progress
        )
    sizing = _explained(chosen, promise, known, wish, tried)
    rate = chosen.seen.rate
    predicted = Figures(
        rate=rate,
        sent=rate,
        # What a server has answered it can answer, also where the model took it for slower.
        throughput=min(rate, max(promise.capacity, chosen.seen.throughput)),
        p99_ms=_predicted_ms(chosen, promise, known, rate),
        peak_mib=_memory_mib(known, sizing, manifest.weight_bytes),
    )
    observed = None
    if verify and rate > 0:
        progress.stage("verifying the plan")
        observed = _observe(package, sizing, rate, wish, 2 * seconds, seed=1)
    made = Planned(
        package=package,
        wish=wish,
        capacity=known,
        sizing=sizing,
        predicted=predicted,
        observed=observed,
        trials=tuple(tried),
        highest_rate=promise.highest_rate if wish.rate is not None else highest,
        remedies=(),
        doubts=tuple(doubts(hardware)),
    )
    return made if made.met else replace(made, remedies=tuple(_remedies(made)))


def _try(
    package: Package, promise: Promise, wish: Wish, seconds: float, progress: Progress
) -> Trial:
    """A server with these numbers, under the load that is wished for."""
    progress.stage(f"trying {_words(promise.sizing)}")
    settings = Settings(sizing={package.manifest.name: promise.sizing})
    with (
        TrialServer(package, settings, rows=wish.rows) as server,
        server.generator() as generator,
    ):
        if wish.rate is not None:
            run = generator.run(
                OpenLoop(rate=wish.rate, poisson=True),
                seconds=seconds,
                objective_ms=wish.p99_ms,
            )
            rate = wish.rate
        else:
            highest = highest_rate.find(
                generator,
                Objective(wish.p99_ms),
                seconds=seconds / 2,
                first_rate=promise.highest_rate or None,
                progress=progress,
            )
            if any(each.run.interrupted for each in highest.trials):
                raise KeyboardInterrupt
            if highest.run is None:
                nothing = Figures(rate=0.0, sent=0.0, throughput=0.0, p99_ms=math.inf, peak_mib=0.0)
                return Trial(
                    sizing=promise.sizing, promised_ms=promise.p99_ms, seen=nothing, met=False
                )
            run, rate = highest.run, (highest.rate or 0.0)
        seen = _figures(run, rate, server.peak_mib())
    progress.say(
        f"{_words(promise.sizing)}: {seen.throughput:,.0f} requests/s, p99 {in_words(seen.p99_ms)} "
        f"(the model said {in_words(promise.p99_ms)})"
    )
    return Trial(
        sizing=promise.sizing,
        promised_ms=promise.p99_ms,
        seen=seen,
        met=seen.p99_ms <= wish.p99_ms,
    )


def _observe(
    package: Package, sizing: Sizing, rate: float, wish: Wish, seconds: float, *, seed: int
) -> Figures:
    settings = Settings(sizing={package.manifest.name: sizing})
    with (
        TrialServer(package, settings, rows=wish.rows) as server,
        server.generator() as generator,
    ):
        run = generator.run(
            OpenLoop(rate=rate, poisson=True, seed=seed),
            seconds=seconds,
            objective_ms=wish.p99_ms,
        )
        return _figures(run, rate, server.peak_mib())


def _figures(run: Run, rate: float, peak_mib: float) -> Figures:
    if run.interrupted:
        raise KeyboardInterrupt
    late = run.latency.percentile_ms(99)
    # Requests that failed are later than any limit: from one in a hundred on, so is the p99.
    total = run.answered + run.failures
    if math.isnan(late) or (total and run.failures / total > 0.01):
        late = math.inf
    return Figures(
        rate=rate,
        sent=run.sent / run.seconds if run.seconds else 0.0,
        throughput=run.throughput,
        p99_ms=late,
        peak_mib=peak_mib,
    )


def _best(tried: Sequence[Trial], wish: Wish) -> Trial:
    """By what was seen: those that keep the wish, then the lower p99, or the higher rate."""
    # `tried` is in the order that the model gave, which decides between those that are alike.
    if wish.rate is None:
        most = max(each.seen.rate for each in tried)
        return next(each for each in tried if each.seen.rate * serving.NEAR >= most)
    least = min(each.seen.p99_ms for each in tried)
    return next(each for each in tried if each.seen.p99_ms <= least * serving.NEAR)


def _predicted_ms(chosen: Trial, promise: Promise, known: Capacity, rate: float) -> float:
    """The model's p99 at the rate, corrected by how far off it was when the sizing was tried."""
    said = serving.p99_ms(promise.sizing, known.service, rate)
    at_trial = serving.p99_ms(promise.sizing, known.service, chosen.seen.rate)
    if not at_trial or math.isinf(chosen.seen.p99_ms):
        return promise.p99_ms
    return said * chosen.seen.p99_ms / at_trial


def _memory_mib(known: Capacity, sizing: Sizing, weight_bytes: int) -> float:
    """From the server that was looked at: other batches and other copies of the weights."""

    def held(each: Sizing) -> int:
        # Instances of one thread share their weights; of more, each has its own.
        copies = 1 if each.threads == 1 else each.instances
        batches = each.instances * _BATCHES_HELD * each.max_batch * known.row_bytes
        return copies * weight_bytes + batches

    return known.peak_mib + (held(sizing) - held(known.base)) / _MIB


def _explained(
    chosen: Trial, promise: Promise, known: Capacity, wish: Wish, tried: Sequence[Trial]
) -> Sizing:
    """The sizing with the reason for each number, for `server.toml`."""
    sizing, service = chosen.sizing, known.service
    requests = max(1, sizing.max_batch // wish.rows)
    reasons = {
        "threads": f"a row alone takes {service.run_s(sizing.threads, wish.rows) * 1e3:.2f} ms",
        "instances": (
            f"p99 {in_words(chosen.seen.p99_ms)} at {chosen.seen.rate:,.0f} requests/s; "
            + _others(chosen, tried)
        ),
        "max_batch": (
            f"{requests * wish.rows} rows take "
            f"{service.run_s(sizing.threads, requests * wish.rows) * 1e3:.2f} ms; "
            f"{promise.capacity:,.0f} requests/s with a full queue"
        ),
        "max_delay_ms": (
            "waiting for company raises what it answers at all"
            if sizing.max_delay_ms
            else "a lone request never waits; the queue fills batches under load"
        ),
        "inline": (
            "a run is shorter than a hop to a thread"
            if sizing.inline
            else "runs on a thread, so that the event loop goes on"
        ),
    }
    return msgspec.structs.replace(sizing, reasons=reasons)


def _others(chosen: Trial, tried: Sequence[Trial]) -> str:
    others = [each for each in tried if each.sizing is not chosen.sizing]
    if not others:
        return "nothing else was tried"
    return "tried beside: " + ", ".join(
        f"{_words(each.sizing)} ({in_words(each.seen.p99_ms)} at {each.seen.rate:,.0f})"
        for each in others
    )


def in_words(p99_ms: float) -> str:
    """Milliseconds; infinite ones are of a queue that grows, or of requests that failed."""
    if not math.isfinite(p99_ms):
        return "without end"
    return f"{p99_ms:,.0f} ms" if p99_ms >= 1000 else f"{p99_ms:.3g} ms"


def _words(sizing: Sizing) -> str:
    delay = f", {sizing.max_delay_ms:g} ms delay" if sizing.max_delay_ms else ""
    inline = ", inline" if sizing.inline else ""
    return f"{sizing.instances} × {sizing.threads} threads, batch {sizing.max_batch}{delay}{inline}"


def _remedies(made: Planned) -> list[str]:
    """What would keep the wish."""
    wish, known = made.wish, made.capacity
    seen = made.observed or made.predicted
    found = []
    lone_ms = known.lone_ms
    if lone_ms > wish.p99_ms:
        found.append(
            f"a lone request takes {lone_ms:.3g} ms here already: the model must be at least "
            f"{lone_ms / wish.p99_ms:.1f} times as fast ('mlserve optimize {made.package.path} "
            f"-o PKG --speed-up {lone_ms / wish.p99_ms:.1f}')"
        )
    fewer = wish.rows // 2
    while fewer:
        service = replace(known.service, rows=fewer)
        rate = wish.rate or made.highest_rate
        if rate and serving.p99_ms(made.sizing, service, rate) <= wish.p99_ms:
            found.append(
                f"{fewer} row{'s' if fewer > 1 else ''} in a request instead: --rows {fewer}"
            )
            break
        fewer //= 2
    if wish.rate is not None and made.highest_rate > 0:
        machines = math.ceil(wish.rate / (AIR * made.highest_rate))
        if machines > 1:
            found.append(
                f"{machines} machines like this one: each keeps it up to about "
                f"{AIR * made.highest_rate:,.0f} requests/s"
            )
        else:
            found.append(
                f"an idle machine: by the engine's times it holds up to about "
                f"{AIR * made.highest_rate:,.0f} requests/s, and it was slower than they say"
            )
            if math.isfinite(seen.p99_ms):
                found.append(f"a p99 of {in_words(seen.p99_ms)}")
    elif wish.rate is not None and lone_ms <= wish.p99_ms and seen.throughput > 0:
        found.append(
            f"more than {wish.rate / seen.throughput:,.0f} machines like this one, which answers "
            f"{seen.throughput:,.0f} requests/s at all; or a lower --rate, or more --p99-ms"
        )
    if lone_ms <= wish.p99_ms:
        found.append(
            f"a faster variant: 'mlserve optimize {made.package.path} -o PKG', and "
            f"'mlserve plan {made.package.path} PKG …' looks at both"
        )
    return found


def cost_per_million(price_per_hour: float, rate: float, rows: int) -> float:
    """What a million predictions (rows) cost on a machine of this price that is kept so busy."""
    return price_per_hour / (rate * rows * 3600) * 1e6
