"""`mlserve compare`: two packages point by point, and whether the second may take the place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve_cli.cli import batch_sizes, console, variant
from mlserve_cli.errors import Exit, Refused

if TYPE_CHECKING:
    from mlserve_cli.pipeline.comparison import Comparison

Markdown = Annotated[
    str | None,
    typer.Option(
        "--markdown",
        metavar="FILE",
        help="Also write a summary for a pull request; - prints it in place of the tables.",
    ),
]


def command(
    first: Annotated[Path, typer.Argument(metavar="A", help="What is there now.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="What may take its place.")],
    data: variant.Data = None,
    target: variant.Target = None,
    batch: variant.Batches = "1,8",
    max_drop: variant.MaxDrop = None,
    allow_slower: variant.AllowSlower = False,
    rows: Annotated[
        int, typer.Option("--rows", min=0, help="Rows with different decisions to show.")
    ] = 10,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate",
            help="End with status 1 if B loses more than --max-drop, or is slower beyond noise.",
        ),
    ] = False,
    markdown: Markdown = None,
    as_json: variant.Json = False,
) -> None:
    """Compare two packages: what they are, accuracy on the same rows, speed, other decisions."""
    from mlserve_cli.cli import comparison_text
    from mlserve_cli.pipeline.comparison import compare
    from mlserve_cli.pipeline.variant import Gate

    if target is not None and data is None:
        raise typer.BadParameter("it names a column of --data FILE.", param_hint="--target")
    if as_json and markdown == "-":
        raise typer.BadParameter("--json prints to stdout already.", param_hint="--markdown")
    sizes = batch_sizes.parse(batch)
    with console.progress() as progress:
        found = compare(
            first,
            second,
            data=data,
            target=target,
            gate=Gate(max_drop=max_drop, allow_slower=allow_slower, batch_sizes=sizes),
            limit_rows=rows,
            progress=progress,
        )
    if markdown is not None:
        _write(markdown, comparison_text.markdown(found))
    if as_json:
        console.print_json(comparison_text.document(found))
    elif markdown != "-":
        comparison_text.show(found)
    _end(found, gate=gate, quiet=as_json or markdown == "-")


def _write(place: str, text: str) -> None:
    if place == "-":
        typer.echo(text, nl=False)
        return
    try:
        Path(place).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(
            f"'{place}' cannot be written: {error.strerror}.",
            hint="the comparison itself is done; - prints the summary to stdout",
        ) from error


def _end(found: Comparison, *, gate: bool, quiet: bool) -> None:
    refusals = found.verdict.refusals
    second = found.verdict.package.path
    if refusals and gate:
        console.print_error(
            Refused(f"'{found.names[1]}' does not pass: {'; '.join(refusals)}.", hint=_hint(found))
        )
        raise typer.Exit(Exit.REFUSED)
    if not quiet:
        console.next_command(f"mlserve up {second}")


def _hint(found: Any) -> str:
    from mlserve_cli.cli import verdict

    return "allow more with " + " and ".join(verdict.flags(found.verdict))
