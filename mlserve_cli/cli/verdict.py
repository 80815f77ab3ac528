"""How a verdict is shown: what the variant gained, what it lost, and why it was refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from mlserve_cli.cli import console
from mlserve_cli.errors import Exit, Refused
from mlserve_cli.package import file_size, other_work

if TYPE_CHECKING:
    from mlserve_cli.pipeline.variant import Verdict


def show(
    verdict: Verdict,
    *,
    as_json: bool,
    facts: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print the verdict and end the command: quietly if it passed, with status 1 if not.

    facts, notes: of the command itself, for `--json` and for a person.
    """
    if as_json:
        console.print_json({**document(verdict), **(facts or {})})
    else:
        _print(verdict)
        for note in notes:
            console.stdout().print(note, markup=False, highlight=False)
    if verdict.refusals:
        console.print_error(
            Refused(
                f"refused: {'; '.join(verdict.refusals)}. It was kept as '{verdict.package.path}'.",
                hint=hint(verdict),
            )
        )
        raise typer.Exit(Exit.REFUSED)
    if not as_json:
        console.next_command(f"mlserve bench {verdict.parent.path} {verdict.package.path}")


def document(verdict: Verdict) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "package": str(verdict.package.path),
        "digest": verdict.package.manifest.digest,
        "variant": verdict.package.manifest.variant,
        "accepted": not verdict.refusals,
        "refusals": list(verdict.refusals),
        "size_bytes": {
            "before": verdict.parent.size_bytes,
            "after": verdict.package.size_bytes,
        },
        "before": verdict.before.facts(),
        "after": verdict.after.facts(),
        "drop": verdict.drop.facts(),
        "max_drop": verdict.allowed,
        "proof": verdict.drop.proof(verdict.allowed),
        "rows_to_prove": verdict.drop.rows_to_prove(verdict.allowed),
        "speed": [ratio.facts() for ratio in verdict.ratios],
        "batch_invariant": verdict.package.manifest.batch.invariant,
    }


def rows(verdict: Verdict) -> list[tuple[str, str, str]]:
    """What stands side by side: (what, before, after)."""
    from mlserve_cli.evaluate.wording import amount, range_of

    metric = verdict.before.metric
    name = f"{metric.name} ({metric.unit})" if metric.unit else metric.name
    before, after = (
        [
            package.manifest.variant,
            file_size.text(package.size_bytes),
            f"{amount(found.value, metric)} ({range_of(found.low, found.high, metric)})",
        ]
        for package, found in ((verdict.parent, verdict.before), (verdict.package, verdict.after))
    )
    return list(zip(("variant", "size", name), before, after, strict=True))


def sentences(verdict: Verdict) -> list[str]:
    """What was lost, what that proves, and how the speed changed."""
    return [
        verdict.drop.sentence(),
        verdict.drop.proof(verdict.allowed),
        *([verdict.after.neighbours.sentence()] if verdict.after.neighbours else []),
        *(ratio.sentence() for ratio in verdict.ratios),
        *filter(None, [other_work.sentence(verdict.busy)]),
    ]


def _print(verdict: Verdict) -> None:
    from rich.table import Table

    out = console.stdout()
    table = Table("", "before", "after")
    for row in rows(verdict):
        table.add_row(*row)
    out.print(table)
    for sentence in sentences(verdict):
        out.print(sentence, highlight=False)
    batch = verdict.package.manifest.batch
    if not batch.invariant:
        out.print(f"served one row at a time: {batch.reason}", markup=False, highlight=False)


def flags(verdict: Verdict) -> list[str]:
    """The options that would have let this variant pass."""
    flags = ["--max-drop"] if any("loses" in reason for reason in verdict.refusals) else []
    slower = any(reason.startswith("slower") for reason in verdict.refusals)
    return [*flags, "--allow-slower"] if slower else flags


def hint(verdict: Verdict) -> str:
    """What to do with a variant that was refused."""
    from mlserve_cli.prune.target import SHORT

    if any("diverged" in reason for reason in verdict.refusals):
        return "train again with a lower --learning-rate, or use what was kept"
    asked = flags(verdict)
    missed = any(reason.startswith(SHORT) for reason in verdict.refusals)
    done = verdict.package.manifest.lineage[-1:]
    longer = "--max-drop" in asked and any("epochs" in step.parameters for step in done)
    again = "the machine was busy: try again when it is idle, "
    timed = missed or "--allow-slower" in asked
    return (
        (again if timed and verdict.busy >= other_work.BUSY else "")
        + ("train it longer with --epochs, " if longer else "")
        + (
            "use it from there, or allow more with " + " and ".join(asked)
            if asked
            else "ask for less, or use it from there"
        )
    )
