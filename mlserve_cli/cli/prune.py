"""`mlserve prune`: channels, heads and blocks taken out; layers become physically smaller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlserve_cli.cli import console, variant

if TYPE_CHECKING:
    from mlserve_cli.pipeline.sensitivity import Report

_SHOWN = 40


def command(
    package: variant.Parent,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where the new package goes; required but for --sensitivity."
        ),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="The share of channels and heads to take out of each layer, 0 to 1; 0.5 where no "
            "other goal is given."
        ),
    ] = None,
    macs: Annotated[
        float | None, typer.Option(help="Goal: the share of the multiplications to keep, 0 to 1.")
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(help="Goal: the share of the parameters to keep, 0 to 1.")
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(
            "--speedup",
            "--speed-up",
            help="Goal: times faster than PKG at batch 1 on this machine. Candidates are exported "
            "and timed before any training; what cannot be reached is refused with the best found.",
        ),
    ] = None,
    target_ms: Annotated[
        float | None, typer.Option(help="Goal: milliseconds at batch 1 on this machine, likewise.")
    ] = None,
    heads: Annotated[
        float | None,
        typer.Option(
            help="The share of attention heads, where it is another than of channels; 0 keeps all."
        ),
    ] = None,
    drop_blocks: Annotated[
        int,
        typer.Option(
            min=0,
            help="Whole residual blocks or encoder layers to drop first: those that change the "
            "answers least.",
        ),
    ] = 0,
    importance: Annotated[
        Literal["l1", "l2", "taylor", "bn-scale"],
        typer.Option(
            help="What makes a channel important. l1, l2: its weights; taylor: how far the loss "
            "moves without it; bn-scale: the scale of its batch normalization."
        ),
    ] = "l2",
    scope: Annotated[
        Literal["layer", "global", "sensitivity"],
        typer.Option(
            help="layer: the same share of each layer; global: all channels ranked together; "
            "sensitivity: shares with which each layer makes the same error."
        ),
    ] = "layer",
    iterations: Annotated[
        int, typer.Option(min=1, max=20, help="Prunings, with fine-tuning after each.")
    ] = 1,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of fine-tuning in all; else half of those in TRAINING."),
    ] = None,
    recover: Annotated[
        Literal["parent", "targets"],
        typer.Option(
            help="What fine-tuning learns from. parent: the answers of PKG beside the targets; "
            "targets: those alone."
        ),
    ] = "parent",
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Write nothing; show what each layer loses when pruned alone."
        ),
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="--sensitivity: write a page with a plot.")
    ] = None,
    sparsity: Annotated[
        Literal["2:4", "unstructured"] | None,
        typer.Option(help="Refused, with what such zeros would bring, measured on this machine."),
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
    """Prune channels, attention heads and blocks of a PyTorch package, and fine-tune what is left.

    The pruned model has fewer and smaller layers: it needs no special engine to be faster. One
    goal may be given: --ratio, --macs, --parameters, --speedup or --target-ms.
    OUTPUT.report.html shows the learning curves. A fine-tuning that was interrupted, or killed,
    goes on with --resume and ends with the same weights.
    """
    if html is not None and not sensitivity:
        raise typer.BadParameter("it is for --sensitivity.", param_hint="--html")
    if sparsity is not None:
        _refuse(sparsity, package)
    if sensitivity:
        _sensitivity(package, importance, html, as_json=as_json)
        return
    if output is None:
        raise typer.BadParameter("say where the new package goes.", param_hint="--output")
    from mlserve_cli.prune.step import PruneStep

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
        lambda _: PruneStep(
            ratio=ratio,
            macs=macs,
            parameters=parameters,
            speedup=speedup,
            target_ms=target_ms,
            heads=heads,
            drop_blocks=drop_blocks,
            importance=importance,
            scope=scope,
            iterations=iterations,
            epochs=epochs,
            recover=recover,
            seed=seed,
            checkpoints=checkpoints,
        ),
    )


def _refuse(sparsity: str, path: Path) -> None:
    from mlserve_cli.package.package import Package
    from mlserve_cli.prune import zeros

    parent = Package.open(path)
    with console.progress() as progress:
        reason = zeros.refuse(sparsity, parent, progress)
    raise reason


def _sensitivity(path: Path, importance: str, html: Path | None, *, as_json: bool) -> None:
    from mlserve_cli.package.package import Package
    from mlserve_cli.pipeline import sensitivity

    opened = Package.open(path)
    with console.progress() as progress:
        found = sensitivity.measure(opened, ranked_by=importance, progress=progress)
    if html is not None:
        from mlserve_cli.pipeline.sensitivity_page import page

        page(found).write(html)
    if as_json:
        console.print_json(found.facts())
        return
    _print(found)
    if html is not None:
        console.note(f"the page is '{html}'")
    console.next_command(f"mlserve prune {path} -o OUTPUT --scope sensitivity --macs 0.5")


def _print(found: Report) -> None:
    from rich.markup import escape
    from rich.table import Table

    from mlserve_cli.pipeline.sensitivity_page import lost

    out = console.stdout()
    if found.metric is not None and found.whole is not None:
        out.print(
            f"{found.package.path}: {found.metric.name} {found.whole:.4g} {found.metric.unit} on "
            f"{found.n} rows; each layer pruned alone, without training",
            markup=False,
            highlight=False,
        )
    table = Table()
    table.add_column("layer", no_wrap=True)
    for name in ("stay", "metric", "lost", "agree", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    points = [(unit, point) for unit in found.units for point in unit.points]
    for unit, point in points[:_SHOWN]:
        less = lost(found, point.value)
        table.add_row(
            escape(unit.name),
            "no block" if unit.kind == "block" else f"{point.stay} of {unit.count} {unit.kind}",
            "" if point.value is None else f"{point.value:.4g}",
            "" if less is None else f"{less:.4g}",
            "" if point.agreement != point.agreement else f"{point.agreement:.1%}",
            f"{point.error:.1%}",
        )
    out.print(table)
    console.note(
        "agree and change: decisions that stay, and how far the answers move, on "
        f"{found.compared} rows of calibration(), or the package's own"
    )
    if len(points) > _SHOWN:
        console.note(f"the {len(points) - _SHOWN} least sensitive are left out; --json has all")
    for layer, reason in found.left.items():
        console.note(f"left as it is: {layer}, {reason}")
