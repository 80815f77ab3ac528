"""Which versions of a repository are loaded: all, the newest few, or some that are named.

[versions]
iris = 2                  # the newest two
digits = ["1.2", "1.4"]   # these
"*" = "all"               # of every other model, all of them; the default
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from .errors import SettingsError
from .repository import Found

Policy: TypeAlias = str | int | list[str]
"""`"all"`, a number of newest versions, or a list of versions."""

OTHERS = "*"


def check(policies: Mapping[str, Policy]) -> None:
    """Raises `SettingsError` naming the policy that is none."""
    for name, policy in policies.items():
        if isinstance(policy, bool) or (isinstance(policy, int) and policy < 1):
            allowed = False
        else:
            allowed = policy == "all" if isinstance(policy, str) else bool(policy)
        if not allowed:
            raise SettingsError(
                f"versions of '{name}' is {policy!r}, and it must be 'all', a number of newest "
                "versions of at least 1, or a list of versions."
            )


def choose(policies: Mapping[str, Policy], found: Sequence[Found]) -> list[Found]:
    """Those of one model's versions, oldest first, that its policy wants."""
    if not found:
        return []
    policy = policies.get(found[0].manifest.name, policies.get(OTHERS, "all"))
    if isinstance(policy, int):
        return list(found[-policy:])
    if isinstance(policy, list):
        return [each for each in found if each.manifest.version in policy]
    return list(found)
