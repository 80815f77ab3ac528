"""`mlserve verify`: the checks of a package, run again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve_cli.cli import console
from mlserve_cli.errors import Exit

if TYPE_CHECKING:
    from mlserve_cli.package.verify import Check


def command(
    package: Annotated[Path, typer.Argument(metavar="PKG", help="The package to check.")],
    accuracy: Annotated[
        bool,
        typer.Option(
            "--accuracy",
            help="Measure the accuracy here and hold it to what the evidence claims, with the "
            "definition's evaluation() where --data is not given.",
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="Rows with targets to measure it with: a folder, .npz, .csv, .jsonl or "
            "file.py:function.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "--column",
            metavar="NAME",
            help="The column of the data with the targets.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="PKG",
            help="For data without targets: the package that it was judged against.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check a package again: files, engine, golden predictions, batch-invariance; the accuracy."""
    from dataclasses import asdict

    from mlserve_cli.package.verify import verify

    if target is not None and data is None:
        raise typer.BadParameter("it names a column of --data FILE.", param_hint="--target")
    checks = []
    for check in verify(package):
        checks.append(check)
        _print(check, as_json=as_json)
    passed = all(check.passed for check in checks)
    if passed and (accuracy or data is not None or reference is not None):
        from mlserve_cli.pipeline import claim

        with console.progress() as progress:
            check = claim.verify(
                package, data=data, target=target, reference=reference, progress=progress
            )
        checks.append(check)
        _print(check, as_json=as_json)
        passed = check.passed
    if as_json:
        console.print_json({"passed": passed, "checks": [asdict(check) for check in checks]})
    if not passed:
        raise typer.Exit(Exit.REFUSED)
    if not as_json:
        console.next_command(f"mlserve up {package}")


def _print(check: Check, *, as_json: bool) -> None:
    if as_json:
        return
    mark = "[green]ok[/]    " if check.passed else "[red]FAILED[/]"
    console.stdout().print(f"{mark} {check.name}: ", end="")
    console.stdout().print(check.detail, markup=False)
