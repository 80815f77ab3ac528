"""`--threads N`: how many threads an engine takes for one run."""

from __future__ import annotations

from typing import Annotated

import typer


def check(count: int) -> int:
    """Refuse more threads than there is room for."""
    if count:
        from mlserve_cli.runtime.hardware import detect

        usable = detect().logical_cpus
        if count > usable:
            # They spin while they wait for each other: with ten times as many, a run never ends.
            raise typer.BadParameter(
                f"{count} are more than the {usable} that may be used here.",
                param_hint="--threads",  # bench calls this for each of its numbers
            )
    return count


Threads = Annotated[
    int,
    typer.Option(
        "--threads",
        min=0,
        callback=check,
        help="Threads for one run; 0 takes the physical cores that may be used.",
    ),
]
