"""`mlserve optimize`: the best way to run a model here, found by measuring, with proof."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mlserve_cli.cli import batch_sizes, console, duration, variant
from mlserve_cli.errors import Exit, Refused
from mlserve_cli.package import file_size

if TYPE_CHECKING:
    from mlserve_cli.package.package import Package
    from mlserve_cli.package.progress import Progress
    from mlserve_cli.pipeline.optimize import Outcome
    from mlserve_cli.search.trial import Trial


_FATES = {
    "made": "not judged",
    "failed": "failed",
    "slower": "slower",
    "inaccurate": "refused",
    "passed": "",
}


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A package, or whatever 'mlserve export' makes one of."
        ),
    ],
    output: variant.Output,
    target: Annotated[
        Literal["latency", "throughput", "size"],
        typer.Option(help="What to win: time of the smallest batch, rows a second, or bytes."),
    ] = "latency",
    max_drop: variant.MaxDrop = None,
    speed_up: Annotated[
        float | None,
        typer.Option(
            "--speed-up",
            "--speedup",
            min=1,
            help="How many times as fast it must be at least; else the status is 1.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop looking after this long: 90s, 10m, 1h."),
    ] = None,
    train_budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Train smaller networks, too: pruned, and student() of the definition, each in "
            "the precisions that won. So much training at most: 90s, 10m, 1h.",
        ),
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            min=1, help="Evaluations of accuracy at most; else 15, and 30 with --train-budget."
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Rows to take ranges from; else calibration()."),
    ] = None,
    data: variant.Data = None,
    column: Annotated[
        str | None, typer.Option(help="The column of --data that holds the right answers.")
    ] = None,
    batch: variant.Batches = "1,8",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an earlier search for the same output.")
    ] = False,
    force: variant.Force = False,
    as_json: variant.Json = False,
) -> None:
    """Find the fastest (or smallest) variant of a model that loses no more than --max-drop.

    Candidates are made from the architecture and this machine, timed beside the float model, judged
    on the same rows, and mended where accuracy alone stands in the way. The float model is kept if
    nothing wins. OUTPUT.recipe.toml says how to make the result again, OUTPUT.report.html what was
    tried, and OUTPUT.search holds every trial, for --resume.
    """
    from mlserve_cli.package.draft import check_apart
    from mlserve_cli.pipeline import findings
    from mlserve_cli.pipeline.cases import Cases
    from mlserve_cli.pipeline.optimize import Goal, optimize
    from mlserve_cli.pipeline.variant import Gate

    if column is not None and data is None:
        raise typer.BadParameter("it names a column of --data FILE.", param_hint="--column")
    goal = Goal(
        target=target,
        gate=Gate(
            max_drop=max_drop,
            batch_sizes=batch_sizes.parse(batch),
            allow_slower=target == "size",
        ),
        speed_up=speed_up,
        budget_s=None if budget is None else duration.parse(budget, flag="--budget"),
        evaluations=evaluations or (15 if train_budget is None else 30),
        train_budget_s=None
        if train_budget is None
        else duration.parse(train_budget, flag="--train-budget"),
    )
    check_apart(output, Path(source))
    with console.progress() as progress:
        parent = _float(source, output, calibration, resume=resume, progress=progress)
        found = optimize(
            parent,
            output,
            source=source,
            cases=Cases.of(parent, data=data, calibration=calibration, target=column),
            goal=goal,
            progress=progress,
            resume=resume,
            overwrite=force,
        )
        findings.page(found).write(found.report)
    _show(found, as_json=as_json)


def _float(
    source: str, output: Path, calibration: str | None, *, resume: bool, progress: Progress
) -> Package:
    """The package to start from: opened, or exported into the search's own folder."""
    from mlserve_cli.errors import MlserveError
    from mlserve_cli.export.export import export
    from mlserve_cli.package.package import Package
    from mlserve_cli.pipeline.optimize import work_folder
    from mlserve_cli.runtime.manifest import MANIFEST

    if (Path(source) / MANIFEST).is_file():
        return Package.open(Path(source))
    place = work_folder(output) / "float"
    if resume and place.is_dir():
        try:
            return Package.open(place)
        except MlserveError as error:
            progress.say(f"the float package is made again: {error.message}")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        return export(source, place, calibration=calibration, progress=progress, overwrite=True)
    except BaseException:
        with contextlib.suppress(OSError):  # it holds trials of an earlier search
            place.parent.rmdir()
        raise


def _show(found: Outcome, *, as_json: bool) -> None:
    if as_json:
        console.print_json(document(found))
    else:
        _print(found)
    if not found.reached:
        wanted = f"{found.goal.speed_up:g} times as fast was asked for"
        for sentence in found.limits:
            console.note(sentence)
        console.print_error(
            Refused(
                f"the goal was not reached: {wanted}, and the best that passes is "
                f"{found.speed_up:.2f} times as fast. It was kept as '{found.package.path}'.",
                hint="allow a larger --max-drop or --train-budget"
                if found.goal.train_budget_s is not None
                else "allow a larger --max-drop, or let smaller networks be trained: "
                "--train-budget 10m",
            )
        )
        raise typer.Exit(Exit.REFUSED)
    if not as_json:
        console.next_command(f"mlserve up {found.package.path}")


def document(found: Outcome) -> dict[str, Any]:
    """What `--json` prints."""
    import msgspec

    return {
        "package": str(found.package.path),
        "digest": found.best.digest,
        "best": found.best.name,
        "target": found.goal.target,
        "speed_up": found.speed_up,
        "reached": found.reached,
        "limits": list(found.limits),
        "untrained": list(found.untrained),
        "reason": found.reason,
        "engine": found.best.engine,
        "threads": found.best.threads,
        "instances": found.best.instances,
        "stopped": found.stopped,
        "evaluations": found.evaluations,
        "seconds": found.seconds,
        "recipe": str(found.recipe),
        "report": str(found.report),
        "hardware": msgspec.to_builtins(found.hardware),
        "trials": [msgspec.to_builtins(trial) for trial in found.trials],
    }


def _print(found: Outcome) -> None:
    from rich.table import Table

    from mlserve_cli.search.choice import front

    on_front = {trial.key for trial in front(found.trials, found.goal.target)}
    batch = found.baseline.speeds[0].batch
    table = Table(padding=(0, 1, 0, 0))  # nine columns are to fit into 80 characters
    table.add_column("candidate", no_wrap=True)  # the notes below the table speak of them by name
    unit = found.baseline.accuracy.unit if found.baseline.accuracy else ""
    # The other columns take 65 characters, if no word of their headings is cut.
    roomy = max(len(trial.name) for trial in found.trials) + 65 <= console.stdout().width
    metric = f"accuracy, {unit}" if unit else "accuracy"
    for name in ("threads", f"ms, batch {batch}", "rows/s", "as fast", "MB", metric, "loss"):
        whole = max(map(len, name.split())) if roomy else None  # else headings are cut short
        table.add_column(name, justify="right", min_width=whole)
    table.add_column("")
    for trial in found.trials:
        chosen = trial.key == found.best.key
        mark = "chosen" if chosen else _FATES[trial.state]
        if not mark and trial.key in on_front:
            mark = "on the front"
        table.add_row(*_figures(trial), mark, style="bold" if chosen else None)
    console.stdout().print(table)
    for trial in found.trials:
        if trial.reason:
            console.note(f"{trial.name}: {trial.reason}")
    if len(found.trials) == 1:
        console.note(
            "there was nothing to try: the package is quantized already, has no convolutions and "
            "products, or no real rows; it was copied as it is"
        )
    elif not found.best.steps:
        judged = "was judged" if found.stopped else "passes"
        console.note(f"nothing that {judged} is better than the float model, which was kept")
        if found.baseline.accuracy is not None and found.baseline.accuracy.proof:
            console.note(found.baseline.accuracy.proof)
    elif found.best.accuracy is not None:
        console.note(found.best.accuracy.proof)
    if found.reason:
        console.note(found.reason)
    for sentence in found.untrained:
        console.note(sentence)
    if found.stopped:
        console.note(f"the search stopped early: {found.stopped}; --resume goes on")
    console.note(f"the recipe is '{found.recipe}', the report '{found.report}'")


def _figures(trial: Trial) -> list[str]:
    from mlserve_cli.evaluate.wording import figure

    first = trial.figures[0] if trial.figures else None
    accuracy = trial.accuracy
    threads = f"{trial.threads} × {trial.instances}" if trial.instances > 1 else f"{trial.threads}"
    return [
        trial.name,
        threads if trial.threads else "",
        f"{first.p50_ms:.3g}" if first else "",
        f"{trial.rows_per_s:,.0f}" if trial.rows_per_s else "",
        f"{first.speed_up:.2f} ×" if first else "",
        file_size.megabytes(trial.size_bytes) if trial.size_bytes else "",
        figure(accuracy.value, accuracy.unit) if accuracy else "",
        figure(accuracy.drop, accuracy.unit) if accuracy and trial.steps else "",
    ]
