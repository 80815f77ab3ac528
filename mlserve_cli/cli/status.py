"""`mlserve status`: what a running server serves."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlserve_cli.cli import console, remote
from mlserve_cli.errors import Exit

_WIDE = 200  # characters


def command(
    url: remote.Url = remote.DEFAULT_URL,
    key: remote.Key = None,
    ca: remote.Ca = None,
    audit: Annotated[
        int, typer.Option("--audit", min=0, help="Show so many entries of the audit log as well.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show a running server: its models, their versions, traffic and figures. 1 if not ready."""
    client = remote.client(url, key, ca)
    found = client.status()
    _add_intervals(found)
    entries = client.audit(audit) if audit else []
    if as_json:
        console.print_json({"url": client.url, **found, **({"audit": entries} if audit else {})})
    else:
        _print(client.url, found, entries)
    if not found["ready"]:
        raise typer.Exit(Exit.REFUSED)


def _add_intervals(found: dict[str, Any]) -> None:
    """Say beside each accuracy, also of the parts of the traffic, how sure it is."""
    from mlserve_cli.evaluate.proportions import wilson

    for entry in found["models"]:
        truth = entry.get("feedback") or {}
        for facts in (truth, *truth.get("arms", {}).values()):
            if "accuracy" in facts:
                interval = wilson(facts["agreed"], facts["classes"])
                facts["accuracy_interval"] = [interval.low, interval.high]


def _print(url: str, found: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    out = console.stdout()
    if not out.is_terminal:
        out.width = _WIDE  # a pipe has no width, and must not lose the end of a name
    table = Table("model", "state", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("traffic", "requests", "failed", "mean ms", "queue"):
        table.add_column(name, justify="right")
    table.add_column("labels")
    with_truth = any("feedback" in entry for entry in found["models"])
    if with_truth:
        table.add_column("by the truth")
    for entry in found["models"]:
        row = (*_row(entry), _truth(entry)) if with_truth else _row(entry)
        table.add_row(f"{entry['name']} {entry['version']}", *row)
    out.print(table)
    for entry in found["models"]:
        if entry["reason"]:
            out.print(f"{entry['name']} {entry['version']}: {entry['reason']}", markup=False)
    for entry in entries:
        fields = ("time", "who", "action", "model", "version", "outcome")
        line = "  ".join(str(entry[name]) for name in fields if entry.get(name))
        out.print(line, markup=False, highlight=False)
    ready = "ready" if found["ready"] else "not ready"
    console.note(f"{url} is {ready}, up for {found['uptime_s']:,.0f} s")


def _truth(entry: dict[str, Any]) -> str:
    """`93.1 % right [91.2, 94.6] of 1,204`, or the mean error of a regression."""
    facts = entry.get("feedback", {})
    words = []
    if "accuracy" in facts:
        low, high = (100 * end for end in facts["accuracy_interval"])
        right, count = 100 * facts["accuracy"], facts["classes"]
        words.append(f"{right:.1f} % right [{low:.1f}, {high:.1f}] of {count:,}")
    if "values" in facts:
        error, count = facts["mean_absolute_error"], facts["values"]
        words.append(f"off by {error:.3g} on average, of {count:,}")
    return "; ".join(words)


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    share = f"{entry['share']:g} %"
    shadow = [f"shadow of {entry['shadow']:g} %"] if entry["shadow"] else []
    labels = ", ".join([*entry["labels"], *shadow])
    if "requests" not in entry:
        return entry["state"], share, "", "", "", "", labels
    mean = entry["mean_ms"]
    return (
        entry["state"],
        share,
        f"{entry['requests']:,}",
        f"{entry['failures']:,}",
        "" if mean is None else f"{mean:.3g}",
        f"{entry['queue_rows']:,}",
        labels,
    )
