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
    entries = client.audit(audit) if audit else []
    if as_json:
        console.print_json({"url": client.url, **found, **({"audit": entries} if audit else {})})
    else:
        _print(client.url, found, entries)
    if not found["ready"]:
        raise typer.Exit(Exit.REFUSED)


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
    for entry in found["models"]:
        table.add_row(f"{entry['name']} {entry['version']}", *_row(entry))
    out.print(table)
    for entry in found["models"]:
        if entry["reason"]:
            out.print(f"{entry['name']} {entry['version']}: {entry['reason']}", markup=False)
    for entry in entries:
        line = (entry.get("time"), entry.get("who"), entry.get("action"), entry.get("model"))
        more = (entry.get("version") or "", entry.get("outcome"))
        out.print("  ".join(str(part) for part in (*line, *more)), markup=False, highlight=False)
    ready = "ready" if found["ready"] else "not ready"
    console.note(f"{url} is {ready}, up for {found['uptime_s']:,.0f} s")


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
