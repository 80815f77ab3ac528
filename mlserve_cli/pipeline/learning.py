"""How a variant was trained, as one HTML file: its learning curves, and what the gates measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlserve_cli.pipeline.variant import Verdict
from mlserve_cli.report.axes import Axis
from mlserve_cli.report.frame import Reference
from mlserve_cli.report.lines import Series, lines
from mlserve_cli.report.page import Page
from mlserve_cli.report.table import Cell

TICKS = 12
"""Epochs that each get a mark on the axis: more would lie on each other, or between epochs."""


def page(verdict: Verdict, trainings: Sequence[Mapping[str, Any]]) -> Page:
    """The whole report. `trainings` are evidence of the kind "training", in their order."""
    manifest = verdict.package.manifest
    made = Page(
        f"{manifest.name} {manifest.version}: {manifest.variant}",
        f"Made from {verdict.parent.manifest.variant}. Digest {manifest.digest}.",
    )
    made.text(f"{verdict.drop.sentence()}; {verdict.drop.proof(verdict.allowed)}.")
    for ratio in verdict.ratios:
        made.text(f"{ratio.sentence()}.")
    if verdict.refusals:
        made.text(f"Refused: {'; '.join(verdict.refusals)}.")
    add(made, trainings)
    return made


def add(page: Page, trainings: Sequence[Mapping[str, Any]]) -> None:
    """A section a training: the curves of the loss and of the validation metric, and a table."""
    for training in trainings:
        curve = training["curve"]
        page.section(str(training.get("title", "training")).capitalize())
        advice = f"; {training['advice']}" if training.get("advice") else ""
        page.text(f"{training['summary']}{advice}. Seed {training['seed']}.")
        epochs = [float(place + 1) for place in range(len(curve))]
        along = Axis("epoch", at=tuple(epochs) if len(epochs) <= TICKS else ())
        kept = [Reference(float(training["kept_epoch"]), "kept", "x")]
        page.figure(
            lines(
                [Series("", epochs, [epoch["loss"] for epoch in curve])],
                along,
                Axis("training loss", better="low"),
                title="Training loss",
                references=kept,
            ),
            "The mean of each epoch. The line marks the epoch whose weights were kept.",
        )
        metric = training.get("metric")
        if metric:
            page.figure(
                lines(
                    [Series("", epochs, [epoch["validation"] for epoch in curve])],
                    along,
                    Axis(
                        f"{metric['name']}, validation",
                        metric["unit"],
                        better="high" if metric["higher_is_better"] else "low",
                    ),
                    title="Validation",
                    references=kept,
                ),
                "On rows that training did not see, and that do not judge the result either.",
            )
        page.table(
            ("epoch", "loss", "validation", "learning rate"),
            [
                (
                    place + 1,
                    Cell(f"{epoch['loss']:.4f}", number=True),
                    Cell(
                        "" if epoch["validation"] is None else f"{epoch['validation']:.2f}",
                        number=True,
                    ),
                    Cell(f"{epoch['learning_rate']:.3g}", number=True),
                )
                for place, epoch in enumerate(curve)
            ],
            highlight={training["kept_epoch"] - 1},
        )
