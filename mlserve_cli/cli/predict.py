"""`mlserve predict`: files of rows in, files of answers out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlserve_cli.cli import console
from mlserve_cli.cli.threads import Threads

FORMATS = ("csv", "jsonl", "npz", "parquet", "arrow")


def command(
    context: typer.Context,
    package: Annotated[Path, typer.Argument(metavar="PKG", help="The package to predict with.")],
    sources: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Rows: .parquet, .csv, .jsonl, .json, .npz, .npy, .arrow, .feather; a folder or a "
            "'glob*' of them, of pictures or of .txt files; a URL (s3://…); file.py:function; or - "
            "(stdin). May be given several times.",
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Answers: .parquet, .csv, .jsonl, .npz, .arrow; a folder of parts (name/); a URL; "
            "or - (stdout).",
        ),
    ],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="INPUT=COLUMN",
            help="Take the model's input, or a column that the package declares, from a column of "
            "another name; x=a,b,c puts several into one matrix.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="COLUMN,…", help="Copy these columns to the output."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, help="The most rows to run together; measured if left out."),
    ] = None,
    threads: Threads = 0,
    part_rows: Annotated[
        int | None,
        typer.Option(
            "--part-rows",
            min=1,
            help="The fewest rows of a part: what a job that is killed has to do again.",
        ),
    ] = None,
    piped: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="What goes through stdin and stdout: csv or jsonl (default). What the parts of a "
            "folder are: parquet (default), csv, jsonl, npz or arrow.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first row that cannot be answered.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a job that was interrupted.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document about the run.")
    ] = False,
) -> None:
    """Predict every row of files: one answer out for each row in, in the same order.

    A row that cannot be answered goes to OUTPUT.rejects.jsonl with the reason; the job goes on,
    and ends with status 1.
    """
    from mlserve_cli.errors import Refused
    from mlserve_cli.package.package import Package
    from mlserve_cli.predict.prediction import Choices, predict

    if context.args:  # a pattern without quotes, of which the shell made many arguments
        raise typer.BadParameter(
            f"'{context.args[0]}'{_and_more(len(context.args) - 1)} stands alone, after no option; "
            "a pattern takes quotes, as in --input 'folder/*.csv', so that the shell leaves it be",
            param_hint="--input",
        )
    if piped is not None and piped not in FORMATS:
        raise typer.BadParameter(f"'{piped}' is not {', '.join(FORMATS)}", param_hint="--format")
    if piped not in (None, "csv", "jsonl") and ("-" in sources or target == "-"):
        raise typer.BadParameter(f"'{piped}' is not csv or jsonl", param_hint="--format")
    if as_json and target == "-":
        raise typer.BadParameter("the answers go to stdout already", param_hint="--json")
    if resume and force:
        raise typer.BadParameter("goes on with what --force takes away", param_hint="--resume")
    _spare_inputs(sources, target)
    with console.progress() as progress:
        report = predict(
            Package.open(package),
            sources,
            target,
            choices=Choices(
                batch=batch,
                part=part_rows,
                threads=threads,
                piped=piped,
                mapping=_mapping(mapping or []),
                keep=tuple(name for names in keep or [] for name in names.split(",")),
                strict=strict,
                resume=resume,
                overwrite=force,
            ),
            progress=progress,
        )
    if as_json:
        console.print_json(_document(sources, target, report))
    done = report.rows - report.resumed
    if done:
        console.note(f"{done:,} rows in {report.seconds:.2f} s: {report.rows_per_s:,.0f} rows/s")
    if report.resumed:
        console.note(f"{report.resumed:,} rows were there already, {report.rows:,} in all")
    if report.rejected:
        # Of a file that is whole, with no note of its job, only the rejects are known.
        raise Refused(
            f"{report.rejected:,} of {report.rows + report.rejected:,} rows were rejected; the "
            "others are answered."
            if report.rows
            else f"{report.rejected:,} rows were rejected.",
            hint=f"'{report.rejects}' has the reasons"
            if report.rejects
            else "stdin was read as JSON Lines: --format csv reads CSV"
            if "-" in sources and piped is None and not report.rows
            else None,
        )
    console.next_command(f"mlserve up {package}")


def _and_more(count: int) -> str:
    return f" (and {count:,} more)" if count else ""


def _spare_inputs(sources: list[str], target: str) -> None:
    """Refuse an output that is one of the inputs: --force would lose the rows themselves."""
    from glob import glob

    from mlserve_cli.errors import Refused

    place = Path(target)
    if not place.is_file():
        return
    for source in sources:
        for path in map(Path, (source, *glob(source))):  # noqa: PTH207 - as the reader does
            # A folder of pictures may hold its answers; one of tables would read them as rows.
            among = path.is_dir() and any(
                other.samefile(place) for other in path.glob(f"*{place.suffix}") if other.is_file()
            )
            if (among and len(list(path.glob(f"*{place.suffix}"))) > 1) or (
                path.is_file() and path.samefile(place)
            ):
                raise Refused(
                    f"'{target}' is among the rows of '{source}', and writing it would lose them.",
                    hint="choose another place for the answers",
                )


def _mapping(given: list[str]) -> dict[str, tuple[str, ...]]:
    mapping = {}
    for text in given:
        name, separator, columns = text.partition("=")
        if not (separator and name and columns):
            raise typer.BadParameter(f"'{text}' is not INPUT=COLUMN", param_hint="--map")
        mapping[name] = tuple(columns.split(","))
    return mapping


def _document(sources: list[str], target: str, report: Any) -> dict[str, Any]:
    from mlserve_cli.errors import without_secrets

    shown = list(map(without_secrets, sources))
    return {
        "input": shown[0] if len(shown) == 1 else shown,
        "output": without_secrets(target),
        "rows": report.rows,
        "resumed_rows": report.resumed,
        "rejected": report.rejected,
        "rejects": report.rejects,
        "parts": report.parts,
        "seconds": report.seconds,
        "rows_per_s": report.rows_per_s,
        "batch": report.batch,
        "threads": report.threads,
        "instances": report.instances,
    }
