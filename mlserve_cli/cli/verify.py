"""`mlserve verify`: the checks of a package, run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlserve_cli.cli import console
from mlserve_cli.errors import Exit


def command(
    package: Annotated[Path, typer.Argument(metavar="PKG", help="The package to check.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check a package again: its files, engine, golden predictions and batch-invariance."""
    from dataclasses import asdict

    from mlserve_cli.package.verify import verify

    checks = []
    for check in verify(package):
        checks.append(check)
        if not as_json:
            mark = "[green]ok[/]    " if check.passed else "[red]FAILED[/]"
            console.stdout().print(f"{mark} {check.name}: ", end="")
            console.stdout().print(check.detail, markup=False)
    passed = all(check.passed for check in checks)
    if as_json:
        console.print_json({"passed": passed, "checks": [asdict(check) for check in checks]})
    if not passed:
        raise typer.Exit(Exit.REFUSED)
    if not as_json:
        console.next_command(f"mlserve up {package}")
