"""`mlserve prune`: channels taken out, then fine-tuned; layers become physically smaller."""

from __future__ import annotations

from typing import Annotated

import typer

from mlserve_cli.cli import variant


def command(
    package: variant.Parent,
    output: variant.Output,
    ratio: Annotated[
        float, typer.Option(help="The share of channels to take out of each layer, 0 to 1.")
    ] = 0.5,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of fine-tuning; else half of those in TRAINING."),
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
    """Prune whole channels of a PyTorch package and fine-tune what is left.

    The pruned model has fewer and smaller layers: it needs no special engine to be faster.
    """
    from mlserve_cli.prune.step import PruneStep

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
        lambda _: PruneStep(ratio=ratio, epochs=epochs, seed=seed),
    )
