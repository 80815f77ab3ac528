"""Which nodes to leave in float so that an int8 model loses no more than it may.

The nodes are ranked by the error that each makes alone. How many of the worst must stay in float is
found by bisection, as leaving out one more never costs accuracy but for chance. Then those that win
most time for what they cost are given back, one at a time, for as long as evaluations are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Outcome(Protocol):
    """What trying a set of nodes in float gave."""

    @property
    def passes(self) -> bool:
        """Whether the loss is within the limit, and it is still worth having."""
        ...

    @property
    def too_many(self) -> bool:
        """Whether too little is left in int8 to win anything: more in float are no answer."""
        ...


T = TypeVar("T", bound=Outcome)


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The smallest set that passed, with what it gave; None where not even all of them did.

    tried: how many sets were evaluated.
    """

    excluded: tuple[str, ...] | None
    outcome: T | None
    tried: int


def search(
    ranked: Sequence[str],
    attempt: Callable[[tuple[str, ...]], T],
    *,
    limit: int,
    worth: Mapping[str, float] | None = None,
) -> Found[T]:
    """Find a small set of `ranked` nodes (worst first) to leave in float.

    attempt: evaluates a set; it is known that the empty one does not pass. limit: of evaluations.
    worth: microseconds that a node wins in int8, for the order in which nodes are given back;
    without it none is.
    """
    seen: dict[frozenset[str], T] = {}

    def judge(chosen: tuple[str, ...]) -> T:
        outcome = seen.get(frozenset(chosen))
        if outcome is None:
            outcome = seen[frozenset(chosen)] = attempt(chosen)
        return outcome

    passed: tuple[tuple[str, ...], T] | None = None
    # The first `low` are too few. All of them, `high`, would do, and leave nothing in int8.
    low, high = 0, len(ranked)
    while high - low > 1 and len(seen) < limit:
        # Not the middle first: a handful of nodes is mostly to blame, and each step costs as much.
        bounded = high < len(ranked)
        size = (low + high) // 2 if bounded else max(low * 3, len(ranked) // 8)
        size = min(max(size, low + 1), high - 1)
        chosen = tuple(ranked[:size])
        outcome = judge(chosen)
        if outcome.passes:
            passed, high = (chosen, outcome), size
        elif outcome.too_many:
            high = size
        else:
            low = size
    if passed is None:
        return Found(None, None, len(seen))
    if worth:
        excluded, outcome = passed
        order = sorted(excluded, key=lambda name: -worth.get(name, 0.0) / _blame(ranked, name))
        for name in order:
            if len(seen) >= limit or len(excluded) == 1:
                break
            if not worth.get(name):
                continue
            chosen = tuple(each for each in excluded if each != name)
            outcome = judge(chosen)
            if outcome.passes:
                excluded = chosen
                passed = (excluded, outcome)
    return Found(passed[0], passed[1], len(seen))


def _blame(ranked: Sequence[str], name: str) -> float:
    """How much of the error a node is taken to make: by its rank, as in Zipf's law."""
    return 1.0 / (1 + list(ranked).index(name))
