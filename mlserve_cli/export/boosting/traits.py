"""What a boosted model says of the columns that it was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Traits:
    """Columns of a model.

    names: in the model's order; empty where it was fitted on a bare matrix.
    categories: column → its categories in the order of their codes, 0, 1, …
    """

    names: tuple[str, ...] = ()
    categories: Mapping[str, Sequence[Any]] = field(default_factory=dict)
