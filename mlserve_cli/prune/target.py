"""What a pruning is to reach, and the smallest ratio that reaches it.

A share of the multiplications or of the parameters is counted; a speed is measured: candidates are
exported and timed beside the parent before anything is trained. Both fall with the ratio, so that
it is found by halving.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlserve_cli.errors import StepError
from mlserve_cli.package.other_work import OtherWork, sentence
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.prune import speed
from mlserve_cli.prune.network import Shares, Survey
from mlserve_cli.training import size
from mlserve_cli.training.size import Size

if TYPE_CHECKING:
    import torch

Kind = Literal["ratio", "macs", "parameters", "speedup", "target_ms"]

MOST = 0.95
"""The largest ratio that is tried: of 160 channels 8 are left, and 8 is the least there can be."""

COUNTED_STEPS = 10
TIMED_STEPS = 6
"""A sixty-fourth of all ratios: channels go by eights, and two timings differ by more."""

MARGIN = 1.02
"""Two loads of one and the same file differ by up to 2 %: a candidate must be faster by that."""

Sharing = Callable[[float], "Shares | None"]
"""A ratio of the whole → another one for each layer, or None for the same everywhere."""


SHORT = "it falls short: "
"""How the sentence begins of a goal that was not reached."""


@dataclass(frozen=True, slots=True)
class Target:
    """value: a ratio of channels; a share of multiplications or parameters; times; milliseconds."""

    kind: Kind
    value: float

    def check(self) -> None:
        """Raise `StepError` for a value that nothing can reach."""
        if self.kind in ("ratio", "macs", "parameters"):
            if not 0 < self.value < 1:
                what = "ratio" if self.kind == "ratio" else f"share of {self.kind} to keep"
                raise StepError(
                    f"the {what} is {self.value:g}; it must lie between 0 and 1.",
                    hint="--ratio 0.5 takes half of the channels out of each layer"
                    if self.kind == "ratio"
                    else f"--{self.kind} 0.5 keeps half of them",
                )
        elif self.kind == "speedup" and not 1 < self.value < float("inf"):
            raise StepError(
                f"the speed-up is {self.value:g}; it must be more than 1.",
                hint="--speedup 2 asks for half the time",
            )
        elif self.kind == "target_ms" and not 0 < self.value < float("inf"):
            raise StepError(
                f"the target is {self.value:g} ms; it must be more than 0.",
                hint="'mlserve bench PKG --batch 1' says what it takes now",
            )

    def reached(self, timing: speed.Timing) -> bool:
        """Whether a network that was timed is as fast as a `speedup` or `target_ms` asks."""
        if self.kind == "speedup":
            return timing.speedup >= self.value
        return timing.candidate_ms <= self.value

    def facts(self, timing: speed.Timing) -> dict[str, Any]:
        """As evidence: whether the trained network reached it. What two loads of one file differ
        by is given."""
        eased = speed.Timing(
            timing.parent_ms, timing.candidate_ms / MARGIN, timing.speedup * MARGIN
        )
        reached = self.reached(eased)
        found = (
            f"{timing.speedup:.2f} times faster, where --speedup asks for {self.value:g}"
            if self.kind == "speedup"
            else f"{timing.candidate_ms:.3g} ms, where --target-ms asks for {self.value:g}"
        )
        return {
            "kind": "target",
            "summary": ("reached: " if reached else SHORT) + f"{found} at batch 1",
            "asked": {self.kind: self.value},
            "reached": reached,
            "parent_ms": timing.parent_ms,
            "ms": timing.candidate_ms,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """The ratio that reaches a target, and what is left then."""

    ratio: float
    size: Size
    timing: speed.Timing | None = None


def counted(
    survey: Survey,
    whole: Size,
    kind: Literal["macs", "parameters"],
    share: float,
    sharing: Sharing = lambda _: None,
) -> Found:
    """The smallest ratio that leaves at most `share` of `whole`. Raises `StepError`."""

    def left(ratio: float) -> Size:
        try:
            pruned = survey.prune(ratio, shares=sharing(ratio), check=False)
        except StepError:  # nothing goes at this ratio
            return size.measure(survey.module, survey.example)
        return size.measure(pruned.module, survey.example)

    def count(found: Size) -> float:
        return float(getattr(found, kind) / getattr(whole, kind))

    smallest = left(MOST)
    if count(smallest) > share:
        raise StepError(
            f"{share:.0%} of the {_WORDS[kind]} cannot be reached: {count(smallest):.0%} are left "
            f"when all that can go has gone{_in_the_way(survey)}.",
            hint=f"ask for --{kind} {count(smallest) + 0.01:.2f} or more"
            + ("" if survey.dropped else ", or drop whole blocks with --drop-blocks"),
        )
    low, high, best = 0.0, MOST, smallest
    for _ in range(COUNTED_STEPS):
        middle = (low + high) / 2
        found = left(middle)
        if count(found) <= share:
            high, best = middle, found
        else:
            low = middle
    return Found(high, best)


def timed(
    survey: Survey,
    whole: Size,
    target: Target,
    parent: Package,
    progress: Progress,
    sharing: Sharing = lambda _: None,
    compare: Callable[[torch.nn.Module, Package], speed.Timing] = speed.compare,
) -> Found:
    """The smallest ratio whose network, untrained, is as fast as the target says.

    Of many timings the luckiest passes first, so each that passes is timed once more. Raises
    `StepError` with the best that was measured and what limits it.
    """
    progress.stage("timing candidates before any training", TIMED_STEPS + 2)
    others = OtherWork()
    known: dict[Size, speed.Timing] = {}

    def measure(ratio: float, *, again: bool = False) -> Found:
        pruned = survey.prune(ratio, shares=sharing(ratio), check=False)
        left = size.measure(pruned.module, survey.example)
        if again or left not in known:
            known[left] = compare(pruned.module, parent)
        timing = known[left]
        progress.advance(note=f"ratio {ratio:.2f}: {timing.speedup:.2f}×")
        return Found(ratio, left, timing)

    def reached(timing: speed.Timing | None) -> bool:
        assert timing is not None  # noqa: S101  (for the type checker: measure() always times)
        return target.reached(
            speed.Timing(timing.parent_ms, timing.candidate_ms * MARGIN, timing.speedup / MARGIN)
        )

    best = measure(MOST)
    if not reached(best.timing):
        raise _out_of_reach(target, best, whole, survey, others.share())
    passed = [best]
    low, high = 0.0, MOST
    for _ in range(TIMED_STEPS):
        middle = (low + high) / 2
        try:
            found = measure(middle)
        except StepError:  # nothing goes at this ratio
            low = middle
            continue
        if reached(found.timing):
            high = middle
            passed.append(found)
        else:
            low = middle
    for found in reversed(passed):
        best = measure(found.ratio, again=True)
        if reached(best.timing):
            said = sentence(others.share())
            if said:
                progress.say(f"{said}: on an idle machine it may come out otherwise")
            return best
    raise _out_of_reach(target, best, whole, survey, others.share())


def _out_of_reach(
    target: Target, best: Found, whole: Size, survey: Survey, busy: float
) -> StepError:
    timing = best.timing
    assert timing is not None  # noqa: S101  (for the type checker: it comes of a timing)
    share = best.size.macs / max(whole.macs, 1)
    wanted = (
        f"{target.value:g} times faster"
        if target.kind == "speedup"
        else f"{target.value:g} ms at batch 1"
    )
    needed = timing.parent_ms / target.value if target.kind == "target_ms" else target.value
    if share > 1 / needed:
        why = f"{share:.0%} of the multiplications are in what cannot go{_in_the_way(survey)}"
    else:
        why = (
            f"only {share:.0%} of the multiplications are left, so the time is no longer theirs "
            "but that of the single operations and of memory"
        )
    return StepError(
        f"{wanted} cannot be reached by taking channels out: the smallest network takes "
        f"{timing.candidate_ms:.3g} ms where its parent takes {timing.parent_ms:.3g} ms, "
        f"{timing.speedup:.2f} times faster; {why}.",
        hint=("the machine was busy: try again when it is idle, or " if sentence(busy) else "")
        + f"ask for {_reachable(target, timing)}, "
        + ("" if survey.dropped else "drop whole blocks with --drop-blocks, ")
        + "and quantize the pruned package for more",
    )


def _reachable(target: Target, timing: speed.Timing) -> str:
    """The goal that the smallest network just meets, as the option that was given says it."""
    if target.kind == "target_ms":
        return f"at least --target-ms {timing.candidate_ms * MARGIN * 1.01:.3g}"
    return f"at most --speedup {timing.speedup / MARGIN:.1f}"


def _in_the_way(survey: Survey) -> str:
    names = list(survey.left)
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" (left: {', '.join(names[:5])}{more})"


_WORDS = {"macs": "multiplications", "parameters": "parameters"}
