"""Why a model is not faster: where the time of the best variant goes, and what was refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mlserve_cli.errors import MlserveError
from mlserve_cli.evaluate.wording import figure
from mlserve_cli.package.package import Package
from mlserve_cli.search import choice
from mlserve_cli.search.trial import Trial

if TYPE_CHECKING:
    from mlserve_cli.explain.nodes import Profile

_SHOWN = 3
_NAMED = 0.05
"""Of the time: what takes less is no limit."""

_KINDS = {
    "float": "products and convolutions in float",
    "conversion": "conversions between int8 and float",
    "other": "operators that have no int8 form",
}


def limits(
    package: Package, best: Trial, baseline: Trial, trials: Sequence[Trial], *, wanted: float
) -> tuple[str, ...]:
    """Sentences on what stands between the best trial and `wanted` times the float model's speed.

    package: of the best trial; it is profiled.
    """
    found = list(_refused(trials, wanted))
    found += _profiled(package, best, baseline, wanted)
    return tuple(found)


def _refused(trials: Sequence[Trial], wanted: float) -> Iterator[str]:
    """The fastest that lost too much, if it would have been fast enough."""
    lossy = [trial for trial in trials if trial.state == "inaccurate" and trial.accuracy]
    quick = [trial for trial in lossy if (speed_up(trial) or 0) >= wanted]
    if quick:
        least = min(quick, key=lambda trial: trial.accuracy.drop if trial.accuracy else 0.0)
        assert least.accuracy is not None  # noqa: S101 - chosen for it
        yield (
            f"{least.name} is {speed_up(least):.2f} times as fast and loses "
            f"{figure(least.accuracy.drop, least.accuracy.unit)} {least.accuracy.unit}".rstrip()
        )


def speed_up(trial: Trial) -> float | None:
    """How many times as fast as the float model, at the smallest batch."""
    speed = choice.speed_for(trial, "latency")
    return speed.speed_up if speed is not None else None


def _profiled(package: Package, best: Trial, baseline: Trial, wanted: float) -> Iterator[str]:
    from mlserve_cli.explain.explanation import explain

    try:
        profile = explain(package, runs=30).profile
    except MlserveError:
        return
    total = profile.total_us
    if not total:
        return
    rest = 1 - profile.share("int8")
    shares = {kind: profile.share(kind) for kind in ("float", "conversion", "other")}
    said = ", ".join(
        f"{share:.0%} in {_KINDS[kind]}"
        for kind, share in sorted(shares.items(), key=lambda item: -item[1])
        if share > _NAMED
    )
    if said:
        yield f"of the time of {best.name} {said}; most of that in {_names(profile)}"
    now = speed_up(best)
    if best.steps and now is not None and 0 < rest < 1:
        # Amdahl (1967): with products that take no time at all, the rest would still be there.
        bound = now / rest
        cannot = ", which is less than was asked for" if bound < wanted else ""
        yield (
            f"if its int8 products took no time at all, it would be {bound:.1f} times as fast as "
            f"the float model{cannot}"
        )
    lone = choice.speed_for(baseline, "latency")
    if lone is not None and lone.p50_ms * 1e3 > 2 * total and not best.steps:
        yield (
            f"its nodes take {total:.0f} of the {lone.p50_ms * 1e3:.0f} µs of a run: the rest is "
            "the engine's own, which no precision makes smaller"
        )


def _names(profile: Profile) -> str:
    """The operators outside int8 that take most, with their shares."""
    spent: dict[str, float] = {}
    for node in profile.nodes:
        if node.kind != "int8":
            spent[node.operator] = spent.get(node.operator, 0.0) + node.microseconds
    most = sorted(spent.items(), key=lambda item: -item[1])[:_SHOWN]
    return ", ".join(f"{name} ({us / profile.total_us:.0%})" for name, us in most)
