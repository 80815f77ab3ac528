"""What quantize, prune and distill share: their options, and the way to a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve_cli.cli import batch_sizes, console

if TYPE_CHECKING:
    from mlserve_cli.package.package import Package
    from mlserve_cli.package.step import Step
    from mlserve_cli.pipeline.cases import Cases
    from mlserve_cli.pipeline.variant import Gate, Verdict
    from mlserve_cli.runtime.tensors import Tensors
    from mlserve_cli.training.checkpoint import Checkpoints

Parent = Annotated[Path, typer.Argument(metavar="PKG", help="The package to start from.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where the new package goes.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="Rows to judge the accuracy with: .npz, .csv, .json, .jsonl, .parquet, a folder of "
        "pictures, or file.py:function. Without it, the definition's evaluation()."
    ),
]
# Also --column, as optimize must call it: its --target says what to win.
Target = Annotated[
    str | None,
    typer.Option("--target", "--column", help="The column of --data that holds the right answers."),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        min=0,  # refuses nan too, which any drop would pass
        help="The largest drop that passes, in the metric's unit (one point, or one percent of a "
        "metric that is not in points, if left out).",
    ),
]
AllowSlower = Annotated[
    bool, typer.Option("--allow-slower", help="Accept a variant that is slower than its parent.")
]
Batches = Annotated[
    str, typer.Option("--batch", help="Batch sizes at which the speed is compared.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace a package that is there already.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with a training that was interrupted: OUTPUT.training holds it."
    ),
]
Seed = Annotated[int, typer.Option(help="What random choices start from.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for, apart from the step itself."""

    parent: Path
    output: Path
    data: str | None
    target: str | None
    max_drop: float | None
    allow_slower: bool
    batch: str
    force: bool
    as_json: bool
    calibration: str | None = None
    checkpoints: Checkpoints | None = None


def checkpoints(output: Path, *, resume: bool, force: bool) -> Checkpoints:
    """Where a step that trains keeps what it has: for the step, and for `Request`."""
    from mlserve_cli.training.checkpoint import Checkpoints

    return Checkpoints.beside(output, resume=resume, force=force)


def run(request: Request, build: Callable[[Iterable[Tensors] | None], Step]) -> None:
    """Make the variant, measure it beside its parent, show the verdict, end the command.

    `build` makes the step from the calibration rows, None where there are none.
    """
    from mlserve_cli.cli import verdict
    from mlserve_cli.pipeline.variant import make

    parent, cases, gate = opened(request)
    with console.progress() as progress:
        made = make(
            build,
            parent,
            request.output,
            cases=cases,
            gate=gate,
            progress=progress,
            overwrite=request.force,
        )
    if request.checkpoints:
        request.checkpoints.discard()
    trainings = made.package.evidence("training")
    report = _report(made, trainings)
    verdict.show(
        made,
        as_json=request.as_json,
        facts={"report": str(report)} if report else None,
        notes=[
            *(_told(training) for training in trainings),
            *([f"the report is '{report}'"] if report else []),
        ],
    )


def opened(request: Request) -> tuple[Package, Cases, Gate]:
    """The parent, the rows that it is judged with, and what a variant of it may cost."""
    from mlserve_cli.package.draft import check_apart
    from mlserve_cli.package.package import Package
    from mlserve_cli.pipeline.cases import Cases
    from mlserve_cli.pipeline.variant import Gate

    if request.target is not None and request.data is None:
        raise typer.BadParameter("it names a column of --data FILE.", param_hint="--target")
    gate = Gate(
        max_drop=request.max_drop,
        allow_slower=request.allow_slower,
        batch_sizes=batch_sizes.parse(request.batch),
    )
    check_apart(request.output, request.parent)
    parent = Package.open(request.parent)
    cases = Cases.of(
        parent, data=request.data, calibration=request.calibration, target=request.target
    )
    return parent, cases, gate


def _told(training: dict[str, Any]) -> str:
    """How a training went, and whether a longer one is worth a try."""
    advice = training.get("advice")
    return f"{training['title']}: {training['summary']}" + (f"; {advice}" if advice else "")


def _report(made: Verdict, trainings: list[dict[str, Any]]) -> Path | None:
    """Write the learning curves beside a package that was trained."""
    from mlserve_cli.pipeline import learning
    from mlserve_cli.pipeline.optimize import report_beside

    if not trainings:
        return None
    report = report_beside(made.package.path)
    learning.page(made, trainings).write(report)
    return report
