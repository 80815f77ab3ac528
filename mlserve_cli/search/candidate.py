"""A way to make and run a model that is worth trying: steps, in order, under a name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StepChoice:
    """A step by its name in a recipe, with its parameters: plain values, as TOML holds them."""

    step: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As a recipe writes it down."""
        return {"step": self.step, **self.parameters}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> StepChoice:
        """The step that a recipe wrote down."""
        parameters = {key: value for key, value in document.items() if key != "step"}
        return cls(step=str(document["step"]), parameters=parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The steps that make a variant of the float package, in order; none for itself.

    why: a short phrase for the report, on what speaks for it.
    """

    name: str
    steps: tuple[StepChoice, ...] = ()
    why: str = ""

    @property
    def key(self) -> str:
        """What two candidates share only if they make the same: the canonical text of the steps."""
        return json.dumps([step.document() for step in self.steps], sort_keys=True)

    def then(self, name: str, step: StepChoice, *, why: str) -> Candidate:
        """The same with one more step."""
        return Candidate(name=name, steps=(*self.steps, step), why=why)

    def excluding(self, nodes: Sequence[str]) -> Candidate:
        """The same with these nodes left in float, in its last step."""
        *before, last = self.steps
        kept = [*last.parameters.get("exclude", ()), *nodes]
        parameters = {**last.parameters, "exclude": sorted(set(kept))}
        changed = StepChoice(step=last.step, parameters=parameters)
        return Candidate(
            name=f"{self.name}-mixed", steps=(*before, changed), why=f"{len(nodes)} left in float"
        )
