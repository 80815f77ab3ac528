"""`mlserve bench --compare OLD.json`: measure the same again, and say what became slower."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve_cli.cli import console
from mlserve_cli.errors import DataError, Exit

if TYPE_CHECKING:
    from mlserve_cli.bench.regression import Outcome
    from mlserve_cli.package.progress import Progress

_PANEL = "Against an older report"

Compare = Annotated[
    Path | None,
    typer.Option(
        "--compare",
        metavar="OLD.json",
        help="A report of --json: measure the same again, and exit 1 where it became slower.",
        rich_help_panel=_PANEL,
    ),
]
Least = Annotated[
    float,
    typer.Option(
        "--least-difference",
        min=0.0,
        max=1000.0,
        metavar="PCT",
        help="How much slower a figure must be to count, beyond its interval.",
        rich_help_panel=_PANEL,
    ),
]
Markdown = Annotated[
    Path | None,
    typer.Option(
        "--markdown",
        metavar="FILE",
        help="Write the summary for a pull request; without it, it is printed.",
        rich_help_panel=_PANEL,
    ),
]


def run(
    old: Path,
    subjects: Sequence[str],
    *,
    least_percent: float,
    markdown: Path | None,
    data: str | None,
    package: Path | None,
    key: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Measure, judge, and end with 1 where something is slower, which is looked at twice."""
    from mlserve_cli.bench import regression

    before = regression.read(old)
    if before["kind"] == "live":
        again = _live(before, subjects, data, package, key, ca)
    else:
        again = _engines(before, subjects)
    with console.progress() as progress:
        found = regression.judge(before, again(progress), least=least_percent / 100)
        if found.slower and not found.unlike:
            progress.say("something looks slower, so all is measured a second time")
            second = regression.judge(before, again(progress), least=least_percent / 100)
            found = found.confirmed(second)
    _tell(found, markdown, as_json=as_json)
    if found.regressed:
        raise typer.Exit(Exit.REFUSED)


def _tell(found: Outcome, markdown: Path | None, *, as_json: bool) -> None:
    import sys

    if markdown is not None:
        from mlserve_cli.package.draft import hidden_beside, writing

        with writing(markdown), hidden_beside(markdown) as hidden:
            hidden.write_text(found.markdown(), encoding="utf-8")
            hidden.replace(markdown)
        console.note(f"wrote {markdown}")
    if as_json:
        console.print_json(found.facts())
    elif markdown is None:
        sys.stdout.write(found.markdown())
    else:
        console.stdout().print(found.sentence, markup=False, highlight=False)


def _engines(
    before: dict[str, Any], subjects: Sequence[str]
) -> Callable[[Progress], dict[str, Any]]:
    import msgspec

    from mlserve_cli.bench.lineup import Asked
    from mlserve_cli.pipeline import sidebyside

    try:
        asked = msgspec.convert(before.get("asked"), Asked)
    except msgspec.ValidationError as error:
        raise DataError(
            f"the old report does not say what was measured: {error}.",
            hint="make it anew with 'mlserve bench --json'",
        ) from error
    if subjects:
        asked = msgspec.structs.replace(asked, paths=tuple(subjects))

    def again(progress: Progress) -> dict[str, Any]:
        return _plain(sidebyside.bench(asked, progress).document())

    return again


def _live(
    before: dict[str, Any],
    subjects: Sequence[str],
    data: str | None,
    package: Path | None,
    key: str | None,
    ca: Path | None,
) -> Callable[[Progress], dict[str, Any]]:
    from mlserve_cli.bench.live import measuring
    from mlserve_cli.bench.load.run import ClosedLoop, OpenLoop

    servers = before["servers"]
    if subjects and len(subjects) != len(servers):
        raise DataError(
            f"the old report has {len(servers)} servers, and {len(subjects)} are given.",
            hint="give as many, in the same order, or none",
        )

    def again(progress: Progress) -> dict[str, Any]:
        documents = []
        for number, server in enumerate(servers):
            loads = [
                ClosedLoop(run["concurrency"])
                if "concurrency" in run
                else OpenLoop(
                    rate=run["rate_per_s"],
                    poisson=run["arrivals"] == "poisson",
                    seed=run["seed"],
                )
                for run in server["runs"]
            ]
            wish = measuring.Wish(
                loads=loads,
                seconds=max((run["seconds"] for run in server["runs"]), default=5.0),
                protocol=server["protocol"],
                model=server["model"],
                batch=server["rows_per_request"],
                data=data,
                package=package,
            )
            url = subjects[number] if subjects else server["url"]
            report = measuring.measure(
                [url], wish, key=key, ca=str(ca) if ca else None, progress=progress
            )
            document = report.document()
            document["servers"][0]["url"] = server["url"]  # the one of before, wherever it is now
            documents.append(document)
        first = documents[0]
        first["servers"] = [each for one in documents for each in one["servers"]]
        return _plain(first)

    return again


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """As it would be read from a file."""
    found: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return found
