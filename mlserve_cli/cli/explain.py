"""`mlserve explain`: which nodes run in int8, why the others do not, and what each one takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve_cli.cli import console

if TYPE_CHECKING:
    from mlserve_cli.explain.explanation import Explanation
    from mlserve_cli.explain.nodes import Kind

_SHOWN = 25

_KINDS: tuple[tuple[Kind, str], ...] = (
    ("int8", "in int8"),
    ("float", "in float products"),
    ("conversion", "between the two"),
    ("other", "in all else"),
)


def command(
    package: Annotated[Path, typer.Argument(metavar="PKG", help="The package to explain.")],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="PKG", help="Its float parent, to show how far each tensor lies from it."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows that are run at once.")] = 1,
    threads: Annotated[
        int, typer.Option(min=0, help="Threads of the engine; 0 takes all cores.")
    ] = 0,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with all nodes, which needs no network."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show which nodes of the optimized graph run in int8, why others do not, and their times.

    With --against PARENT also how far each tensor lies from the float one, so that the layers
    that cost the accuracy are seen: quantize again with --exclude NODE.
    """
    from mlserve_cli.explain import explanation
    from mlserve_cli.package.package import Package

    opened = Package.open(package)
    with console.progress() as progress:
        found = explanation.explain(
            opened,
            parent=None if against is None else Package.open(against),
            batch=batch,
            threads=threads,
            progress=progress,
        )
    if html is not None:
        from mlserve_cli.explain.page import page

        page(found).write(html)
    if as_json:
        console.print_json(found.facts())
        return
    _print(found)
    if html is not None:
        console.note(f"the page is '{html}'")
        packages = f"{against} {package}" if against is not None else package
        console.next_command(f"mlserve bench {packages}")
    else:
        console.next_command(f"mlserve explain {package} --html explain.html")


def _print(found: Explanation) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console.stdout()
    profile = found.profile
    shares = ", ".join(f"{profile.share(kind):.0%} {text}" for kind, text in _KINDS)
    out.print(
        f"{found.package.path}: {profile.total_us:,.0f} µs at batch {found.batch}; {shares}",
        markup=False,
        highlight=False,
    )
    table = Table()
    table.add_column("node", overflow="fold")  # whole, since --exclude takes it
    for name in ("type", "kind", "µs", "share", "why in float"):
        table.add_column(name)
    total = profile.total_us or 1.0
    slowest = sorted(profile.nodes, key=lambda node: -node.microseconds)
    for node in slowest[:_SHOWN]:
        table.add_row(
            escape(found.origins[node.name].node or node.name),
            node.operator,
            node.kind,
            f"{node.microseconds:,.1f}",
            f"{node.microseconds / total:.0%}",
            escape(found.origins[node.name].why_float),
        )
    out.print(table)
    if len(slowest) > _SHOWN:
        console.note(f"the {len(slowest) - _SHOWN} nodes that take least are left out here")
    if found.deviations:
        worst = sorted(found.deviations, key=lambda item: -item.relative_rms)[:_SHOWN]
        far = Table("tensor", "made by", "relative error", "signal to noise")
        for item in worst:
            far.add_row(
                escape(item.tensor),
                escape(item.node),
                f"{item.relative_rms:.2%}",
                f"{item.decibels:.1f} dB",
            )
        out.print(far)
