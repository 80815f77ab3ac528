"""`mlserve distill`: the definition's student learns from the package."""

from __future__ import annotations

from typing import Annotated

import typer

from mlserve_cli.cli import variant


def command(
    package: variant.Parent,
    output: variant.Output,
    temperature: Annotated[
        float, typer.Option(help="Softens the teacher's answers; above 1 shows more of them.")
    ] = 4.0,
    alpha: Annotated[
        float,
        typer.Option(help="The teacher's share of the loss, 0 to 1; the rest is the targets'."),
    ] = 0.9,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of training; else as TRAINING says.")
    ] = None,
    seed: variant.Seed = 0,
    data: variant.Data = None,
    target: variant.Target = None,
    max_drop: variant.MaxDrop = None,
    allow_slower: variant.AllowSlower = False,
    batch: variant.Batches = "1,8",
    force: variant.Force = False,
    as_json: variant.Json = False,
) -> None:
    """Train the definition's student() on the answers of the package, the teacher."""
    from mlserve_cli.distill.step import DistillStep

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
        ),
        lambda _: DistillStep(temperature=temperature, alpha=alpha, epochs=epochs, seed=seed),
    )
