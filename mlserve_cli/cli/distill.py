"""`mlserve distill`: a smaller model learns from what a package answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlserve_cli.cli import variant


def command(
    package: variant.Parent,
    output: variant.Output,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Who answers in place of PKG: another package, run by its engine (its answers are "
            "kept on disk), or file.py[:function] that gives a torch module."
        ),
    ] = None,
    student: Annotated[
        Path | None,
        typer.Option(
            metavar="PKG",
            help="Train the network of this package, a pruned one for example, in place of the "
            "definition's student().",
        ),
    ] = None,
    keep_layers: Annotated[
        int | None,
        typer.Option(min=1, help="The student is PKG with so many of its layers, spread evenly."),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="The student is PKG with these layers: 0,3 for example.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Softens the teacher's answers; above 1 shows more of them.")
    ] = 4.0,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="The teacher's share of the loss, 0 to 1; the rest is the targets'. 0.9 if left "
            "out, 1 where rows come without targets."
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="How answers are compared: classes (softened scores), values (squared "
            "difference) or directions (angle, for embeddings). What the model is, if left out."
        ),
    ] = None,
    hints: Annotated[
        str | None,
        typer.Option(
            help="Layers of the student learn from layers of the teacher: auto, or "
            "TEACHER_LAYER=STUDENT_LAYER,…"
        ),
    ] = None,
    hints_weight: Annotated[
        float, typer.Option(help="The weight of the hints beside the answers' loss.")
    ] = 1.0,
    attention: Annotated[
        float,
        typer.Option(
            help="The weight of attention transfer: where pictures are looked at, how tokens "
            "relate. 0 for none."
        ),
    ] = 0.0,
    train_data: Annotated[
        str | None,
        typer.Option(
            help="Rows to learn from, in place of training(): .npz, .csv, .json, .jsonl, "
            ".parquet, a folder of pictures, or file.py:function. They need no targets."
        ),
    ] = None,
    augment: Annotated[
        int,
        typer.Option(min=0, help="Of tables: rows that are made up for each real one."),
    ] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of training; else as TRAINING says.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its peak; else as TRAINING says.")
    ] = None,
    seed: variant.Seed = 0,
    resume: variant.Resume = False,
    data: variant.Data = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "--column",
            help="The column of --data and --train-data that holds the right answers.",
        ),
    ] = None,
    max_drop: variant.MaxDrop = None,
    allow_slower: variant.AllowSlower = False,
    batch: variant.Batches = "1,8",
    force: variant.Force = False,
    as_json: variant.Json = False,
) -> None:
    """Train a smaller model on the answers of the package, the teacher.

    It is student() of the definition, another package's network, or PKG with fewer layers. Of an
    estimator, a forest for example, student() gives a smaller one that is not fitted yet.
    OUTPUT.report.html shows the learning curve. A training that was interrupted, or killed, goes
    on with --resume and ends with the same weights.
    """
    from mlserve_cli.pipeline import steps

    checkpoints = variant.checkpoints(output, resume=resume, force=force)
    parameters: dict[str, Any] = {
        "teacher": teacher,
        "student": student,
        "layers": _layers(keep_layers, layers),
        "temperature": temperature,
        "alpha": alpha,
        "compare": compare,
        "hints": hints,
        "hints_weight": hints_weight,
        "attention": attention,
        "train_data": train_data,
        "target": target,
        "augment": augment,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "seed": seed,
        "checkpoints": checkpoints,
    }
    if target is not None and data is None and train_data is None:
        raise typer.BadParameter(
            "it names a column of --data or --train-data FILE.", param_hint="--target"
        )
    variant.run(
        variant.Request(
            parent=package,
            output=output,
            data=data,
            target=None if data is None else target,
            max_drop=max_drop,
            allow_slower=allow_slower,
            batch=batch,
            force=force,
            as_json=as_json,
            checkpoints=checkpoints,
        ),
        lambda rows: steps.distill(rows, **parameters),
    )


def _layers(keep: int | None, named: str | None) -> int | tuple[int, ...] | None:
    if keep is not None and named is not None:
        raise typer.BadParameter("--keep-layers says it already.", param_hint="--layers")
    if named is None:
        return keep
    try:
        return tuple(int(each) for each in named.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"'{named}' is no list of numbers such as 0,3.", param_hint="--layers"
        ) from None
