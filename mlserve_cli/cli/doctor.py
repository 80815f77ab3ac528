"""`mlserve doctor`: what this machine is, and what runs well on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve_cli.cli import console

if TYPE_CHECKING:
    from rich.text import Text

    from mlserve_cli.pipeline.machine import Finding, Machine


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what this machine is, which engines and precisions it runs well, what to install."""
    from mlserve_cli.pipeline.machine import examine

    machine = examine()
    if as_json:
        console.print_json(_document(machine))
        return
    _print(machine)
    console.next_command("mlserve up FILE.onnx")


def _document(machine: Machine) -> dict[str, Any]:
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(machine)
    document["speed"]["ratio"] = machine.speed.ratio
    for extra, plain in zip(machine.extras, document["extras"], strict=True):
        plain["install"] = extra.install
    return document


def _print(machine: Machine) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console.stdout()

    def section(title: str, rows: list[tuple[Text, str]]) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column()
        for head, text in rows:
            table.add_row(head, Text(text))
        out.print(Text(title, style="bold"))
        out.print(table)

    section("machine", [(Text(name, style="dim"), text) for name, text in _facts(machine)])
    section("engines", [(_mark(found), found.detail) for found in machine.engines])
    section("precisions", [(_mark(found), found.detail) for found in machine.precisions])
    missing = [extra for extra in machine.extras if extra.missing]
    if missing:
        section(
            "not installed",
            [
                (Text(extra.name, style="yellow"), f"{extra.purpose}: {extra.install}")
                for extra in missing
            ],
        )


def _mark(found: Finding) -> Text:
    from rich.text import Text

    return Text.assemble(("✓ ", "green") if found.runs else ("- ", "dim"), found.name)


def _facts(machine: Machine) -> list[tuple[str, str]]:
    hardware = machine.hardware
    cores = f"{hardware.physical_cores} cores, {hardware.logical_cpus} threads may be used"
    if hardware.cpu_quota is not None:
        cores += f", limited to {hardware.cpu_quota:g} CPUs by the container"
    facts = [
        ("cpu", hardware.cpu_name),
        ("", cores),
        ("", ", ".join(hardware.isa) or "no instructions for int8 or bf16"),
        ("memory", f"{hardware.memory_bytes / 2**30:.1f} GiB may be used"),
    ]
    if hardware.numa_nodes > 1:
        facts.append(("", f"{hardware.numa_nodes} NUMA nodes"))
    facts += [
        ("gpu", f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB") for gpu in hardware.gpus
    ] or [("gpu", "none")]
    return [*facts, ("python", f"{machine.python} on {machine.system}")]
