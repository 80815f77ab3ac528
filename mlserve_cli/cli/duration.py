"""A duration on the command line: "90", "90s", "10m", "1.5h" → seconds."""

from __future__ import annotations

import re

import typer

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse(text: str, *, flag: str) -> float:
    """Seconds. Raises a usage error naming `flag`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if found is None or float(found[1]) == 0:
        raise typer.BadParameter(
            f"'{text}' is no duration; 90s, 10m and 1.5h are.", param_hint=flag
        )
    return float(found[1]) * _UNITS[found[2]]
