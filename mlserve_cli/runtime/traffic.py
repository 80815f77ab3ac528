"""Which version of a model answers a request: the newest, one that is named, or by a rule.

A rule is replaced in one assignment, so a request sees the old one or the new one. Without rules
a route costs one look into an empty dictionary.

Shares are dealt by a low-discrepancy sequence (the fractional parts of n/φ; Niederreiter, "Random
Number Generation and Quasi-Monte Carlo Methods", 1992, section 3.1), so a share of 10 % is met
within a few requests of a hundred, not only on average. A sticky key is hashed instead: it meets
the same version on every server and after every restart, and a share that grows only takes keys
over, it gives none back.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated

import msgspec
from msgspec import Meta

from .errors import InvalidRequest, NotFound
from .feedback.memory import Arm
from .monitoring.metrics import Metrics
from .registry import LoadedModel, Registry
from .shadow import Shadow, ShadowMetrics

_GOLDEN = (math.sqrt(5) - 1) / 2

Percent = Annotated[float, Meta(ge=0, le=100)]


class TrafficRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the requests of one model that name no version are shared out.

    default: the version that gets what the weights leave; None for the newest. labels: label →
    version. weights: version → its share in percent. sticky: `header:NAME` or `field:NAME`, whose
    value decides instead of chance. shadow: a version that is sent copies of `shadow_share` percent
    of the requests; its answers are compared and thrown away.
    """

    default: str | None = None
    labels: dict[str, str] = {}
    weights: dict[str, Percent] = {}
    sticky: str | None = None
    shadow: str | None = None
    shadow_share: Percent = 100.0

    def versions(self) -> set[str]:
        """Every version that the rule names."""
        named = {*self.labels.values(), *self.weights, self.default, self.shadow}
        return {version for version in named if version is not None}


@dataclass(slots=True, eq=False)
class _Split:
    """A rule, made ready for dealing: (upper edge of its part of [0, 1), version)."""

    name: str
    edges: tuple[tuple[float, str], ...]
    default: str | None
    position: float = 0.0

    def pick(self, key: str | None) -> str | None:
        """A version; None for the newest."""
        if not self.edges:
            return self.default
        if key is None:
            self.position = point = (self.position + _GOLDEN) % 1.0
        else:
            point = _hashed(self.name, key)
        for edge, version in self.edges:
            if point < edge:
                return version
        return self.default


class Traffic:
    """Routes requests to versions. It lives on the event loop."""

    def __init__(self, registry: Registry, metrics: Metrics | None = None) -> None:
        self._registry = registry
        self._rules: dict[str, TrafficRule] = {}
        self._splits: dict[str, _Split] = {}
        self._shadows = ShadowMetrics()
        if metrics is not None:
            metrics.registry.register(self._shadows)

    def rule(self, name: str) -> TrafficRule | None:
        """The rule of a model; None where the newest version answers."""
        return self._rules.get(name)

    def route(
        self,
        name: str,
        version: str | None = None,
        *,
        label: str | None = None,
        key: str | None = None,
    ) -> LoadedModel:
        """The version that answers: the one named, the one labelled, or by the rule.

        key: the value that a sticky rule goes by. A rule whose version is not loaded at the moment
        falls back on its default, then on the newest. Raises `NotFound`.
        """
        if version is None:
            if label is not None:
                return self._registry.get(name, self._labelled(name, label))
            split = self._splits.get(name)
            if split is not None:
                for picked in (split.pick(key), split.default):
                    found = None if picked is None else self._registry.find(name, picked)
                    if found is not None:
                        return found
        return self._registry.get(name, version)

    def arm(self, name: str, version: str, named: bool) -> Arm:
        """Which part of the traffic a request was that `version` answered.

        named: it asked for a version or a label. While a sticky key deals, both sides are `ab`:
        they are what an experiment compares.
        """
        if named:
            return "named"
        split = self._splits.get(name)
        if split is None or not split.edges:
            return "default"
        if self._rules[name].sticky is not None:
            return "ab"
        return "canary" if any(version == each for _, each in split.edges) else "default"

    def set_rule(self, name: str, rule: TrafficRule | None) -> None:
        """Replace the rule of a model; None takes it away.

        Raises `InvalidRequest` where the rule makes no sense or names a version that is not
        loaded, `NotFound` where the model is not.
        """
        if rule is not None:
            self._check(name, rule)
        self._hold(name, rule)

    def refresh(self, name: str) -> None:
        """Versions of `name` came or went: point shadow copies at those that are there."""
        rule = self._rules.get(name)
        shadow = None
        if rule is not None and rule.shadow is not None and rule.shadow_share > 0:
            target = self._registry.find(name, rule.shadow)
            if target is not None:
                shadow = Shadow(target, rule.shadow_share, self._shadows)
        for version in self._registry.versions(name):
            model = self._registry.get(name, version)
            others = shadow is not None and shadow.target is not model
            shadows = (shadow,) if shadow is not None and others else ()
            if shadows or getattr(model, "shadows", ()):
                model.shadows = shadows

    def _hold(self, name: str, rule: TrafficRule | None) -> None:
        if rule is None:
            self._rules.pop(name, None)
            self._splits.pop(name, None)
        else:
            self._rules[name] = rule
            self._splits[name] = _split(name, rule)
        self.refresh(name)

    def _labelled(self, name: str, label: str) -> str:
        rule = self._rules.get(name)
        version = None if rule is None else rule.labels.get(label)
        if version is None:
            self._registry.get(name)  # an unknown model comes first
            labels = ", ".join(sorted(rule.labels)) if rule is not None and rule.labels else "none"
            raise NotFound(
                f"Request for unknown model: '{name}' label '{label}' is not found",
                hint=f"its labels are {labels}",
            )
        return version

    def _check(self, name: str, rule: TrafficRule) -> None:
        self._registry.get(name)
        versions = self._registry.versions(name)
        for version in sorted(rule.versions()):
            if version not in versions:
                raise InvalidRequest(
                    f"the rule of model '{name}' names version '{version}', which is not loaded",
                    hint=f"its versions are {', '.join(versions)}",
                )
        for version, share in rule.weights.items():
            if not 0 <= share <= 100:
                raise InvalidRequest(
                    f"the share of version '{version}' of model '{name}' is {share:g} %, and it "
                    "must be from 0 to 100"
                )
        total = sum(rule.weights.values())
        if total > 100 + 1e-9:
            raise InvalidRequest(
                f"the shares of model '{name}' are {total:g} % together, and 100 is the most"
            )
        if not 0 <= rule.shadow_share <= 100:
            raise InvalidRequest(
                f"the shadow share of model '{name}' is {rule.shadow_share:g} %, and it must be "
                "from 0 to 100"
            )
        if rule.sticky is not None:
            kind, _, source = rule.sticky.partition(":")
            fits = _HEADER.fullmatch(source) if kind == "header" else source.strip()
            if kind not in ("header", "field") or not fits:
                raise InvalidRequest(
                    f"model '{name}' cannot stick to '{rule.sticky}'",
                    hint="it can be header:NAME or field:NAME",
                )
        if any(not label.strip() for label in rule.labels):
            raise InvalidRequest(f"a label of model '{name}' is empty")


_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a header can be called (RFC 9110, 5.6.2); a request would fail over anything else."""


def _split(name: str, rule: TrafficRule) -> _Split:
    edges: list[tuple[float, str]] = []
    edge = 0.0
    for version, share in rule.weights.items():
        if share > 0 and version != rule.default:
            edge += share / 100
            edges.append((edge, version))
    if edge > 1 - 1e-9:  # 10, 20 and 70 % are not quite 1.0 as floats
        edges[-1] = (1.0, edges[-1][1])
    return _Split(name, tuple(edges), rule.default)


def _hashed(name: str, key: str) -> float:
    """A number in [0, 1) that this key of this model always gets."""
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=_person(name))
    return (int.from_bytes(digest.digest(), "big") >> 11) / 2**53  # all that a float holds


def _person(name: str) -> bytes:
    """So that a key which is a canary of one model is not one of every model."""
    return blake2b(name.encode(), digest_size=16).digest()
