"""Smaller networks that training makes of the float one, and which of them to train next.

Training is what costs most in a search, so it comes last, one network at a time: what was found
before says whether another is still needed, and whether the seconds that are left are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlserve_cli.search import choice
from mlserve_cli.search.candidate import Candidate, StepChoice
from mlserve_cli.search.choice import Target
from mlserve_cli.search.trial import Trial

TRAINED = frozenset({"prune", "distill", "train"})
"""Steps that make another network."""

WINNERS = 2
"""Of the precisions that won, as many are taken to every smaller network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A smaller network: the first steps of candidates.

    kind: of several of one kind, the one with fewer multiplications loses more. macs: its share of
    the float network's multiplications, 0 to 1. seconds: that training its last step takes,
    estimated; at most, as a pruned network is taken for as slow as the whole one. after: the name
    of the network that its steps before the last one make, or "".
    """

    name: str
    kind: str
    steps: tuple[StepChoice, ...]
    macs: float
    seconds: float
    after: str = ""
    why: str = ""

    @property
    def candidate(self) -> Candidate:
        """The network in float, to be judged by itself."""
        return Candidate(name=self.name, steps=self.steps, why=self.why)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What may be trained. seconds: the budget. obstacle: why nothing can be, or ""."""

    seconds: float = 0.0
    networks: tuple[Network, ...] = ()
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """fitting: to train, in this order. reasons: why the other networks are not.

    left: seconds of the budget.
    """

    fitting: tuple[Network, ...]
    reasons: tuple[str, ...]
    left: float


def plan(training: Training, trials: Sequence[Trial], wanted: float | None) -> Plan:
    """What is still to be trained, after what was found.

    wanted: how many times as fast the result must be. The networks that could be so fast come
    first, and of these the one whose training is cheapest, then the one that keeps most.
    """
    tried = {trial.key: trial for trial in trials}
    known = {
        network.name: (network, tried[network.candidate.key])
        for network in training.networks
        if network.candidate.key in tried
    }
    by_name = {network.name: network for network in training.networks}
    spent = sum(trial.training_s for _, trial in known.values())
    whole = [(n, trial) for n, trial in known.values() if trial.training_s and not n.after]
    # Estimates are of this machine as it was at the start; what was trained since says more.
    slowdown = (
        sum(trial.training_s for _, trial in whole) / sum(network.seconds for network, _ in whole)
        if whole
        else 1.0
    )

    def needed(network: Network) -> float:
        before = by_name.get(network.after) if network.after not in known else None
        return slowdown * (network.seconds + (before.seconds if before else 0.0))

    gained = precision_gain(trials)
    rest = sorted(
        (network for network in training.networks if network.name not in known),
        key=lambda network: (
            not could_reach(network, wanted, gained),
            needed(network),
            -network.macs,
        ),
    )
    fitting: list[Network] = []
    reasons: list[str] = []
    left = room = max(training.seconds - spent, 0.0)
    for network in rest:
        lost = _lost(network, [known[name] for name in known])
        if lost:
            reasons.append(f"{network.name} was not trained: {lost}")
        elif needed(network) > room:
            reasons.append(
                f"{network.name} was not trained: it takes about {duration(needed(network))}, and "
                f"{duration(room)} of --train-budget were left"
            )
        else:
            fitting.append(network)
            room -= needed(network)
    return Plan(tuple(fitting), tuple(reasons), left)


def _lost(network: Network, known: Sequence[tuple[Network, Trial]]) -> str:
    """Why it cannot pass where a larger one of its kind did not; "" where nothing says so."""
    for other, trial in known:
        if other.kind == network.kind and other.macs > network.macs:
            if trial.state == "inaccurate":
                return f"{other.name}, which is larger, loses too much already"
            if trial.state == "failed":
                return f"{other.name} could not be made"
    return ""


def could_reach(network: Network, wanted: float | None, gained: float) -> bool:
    """Whether it would be fast enough if all time went into multiplications."""
    return wanted is None or gained / max(network.macs, 1e-9) >= wanted


def precision_gain(trials: Sequence[Trial]) -> float:
    """How many times as fast the float network became without training; 1 where nothing won."""
    found = [
        speed.speed_up
        for trial in trials
        if trial.state == "passed" and not is_trained(trial)
        for speed in [choice.speed_for(trial, "latency")]
        if speed is not None
    ]
    return max([1.0, *found])


def is_trained(trial: Trial) -> bool:
    """Whether it is another network than the float one."""
    return any(step.get("step") in TRAINED for step in trial.steps)


def winners(trials: Sequence[Trial], target: Target) -> list[Trial]:
    """The best precisions of the float network that passed, without nodes left in float."""
    found = [
        trial
        for trial in trials
        if trial.state == "passed"
        and trial.steps
        and not is_trained(trial)
        and trial.steps[-1].get("step") == "quantize"
        and "exclude" not in trial.steps[-1]
        and choice.wins(trial, target)
    ]
    return sorted(found, key=lambda trial: choice.cost(trial, target))[:WINNERS]


def reached(trials: Sequence[Trial], wanted: float | None) -> bool:
    """Whether something that passed is as fast as was asked for."""
    if wanted is None:
        return False
    return any(
        speed.speed_up >= wanted
        for trial in trials
        if trial.state == "passed"
        for speed in [choice.speed_for(trial, "latency")]
        if speed is not None
    )


def duration(seconds: float) -> str:
    """For a person: 0.4 s, 45 s, 12 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
