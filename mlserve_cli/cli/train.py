"""`mlserve train`: a package's network is trained further, from what the package holds."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mlserve_cli.cli import variant


def command(
    package: variant.Parent,
    output: variant.Output,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of training; else as TRAINING says.")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="At the peak of the schedule; else a fifth of TRAINING's."),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None,
        typer.Option(help="auto: bf16 where the device trains such a network faster in it."),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Decay of a moving average of the weights, such as 0.999; 0: none."),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop after so many epochs that are no better on the rows of validation(), and "
            "keep the best.",
        ),
    ] = None,
    seed: variant.Seed = 0,
    resume: variant.Resume = False,
    data: variant.Data = None,
    target: variant.Target = None,
    max_drop: variant.MaxDrop = None,
    allow_slower: variant.AllowSlower = False,
    batch: variant.Batches = "1,8",
    force: variant.Force = False,
    as_json: variant.Json = False,
) -> None:
    """Train the network of a PyTorch package further: exported, pruned or distilled.

    It needs nothing but the package, whose source/ holds the definition and the weights.
    OUTPUT.report.html shows the learning curve. A training that was interrupted, or killed, goes
    on with --resume and ends with the same weights.
    """
    from mlserve_cli.finetune import TrainStep

    checkpoints = variant.checkpoints(output, resume=resume, force=force)
    variant.run(
        variant.Request(
            parent=package,
            output=output,
            data=data,
            target=target,
            max_drop=max_drop,
            allow_slower=allow_slower,
            batch=batch,
            force=force,
            as_json=as_json,
            checkpoints=checkpoints,
        ),
        lambda _: TrainStep(
            epochs=epochs,
            learning_rate=learning_rate,
            precision=precision,
            ema=ema,
            patience=patience,
            seed=seed,
            checkpoints=checkpoints,
        ),
    )
