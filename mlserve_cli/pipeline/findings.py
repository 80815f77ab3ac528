"""What a search found, as one HTML file: the front, every trial, why the best is the best."""

from __future__ import annotations

from mlserve_cli.evaluate.wording import figure
from mlserve_cli.package import file_size
from mlserve_cli.pipeline.optimize import Outcome
from mlserve_cli.report.axes import Axis
from mlserve_cli.report.markup import Markup
from mlserve_cli.report.page import Page
from mlserve_cli.report.scatter import Point, scatter
from mlserve_cli.report.table import Cell
from mlserve_cli.search import choice
from mlserve_cli.search.trial import Accuracy, Trial

_WANTED = {
    "latency": "the least time for the smallest batch",
    "throughput": "the most rows a second",
    "size": "the fewest bytes",
}

_STATES = {
    "made": "not judged before the search ended",
    "failed": "could not be made",
    "slower": "slower than the float model, so its accuracy was not looked at",
    "inaccurate": "loses too much",
    "passed": "passed",
}


def page(found: Outcome) -> Page:
    """The whole report."""
    manifest = found.package.manifest
    made = Page(
        f"{manifest.name} {manifest.version}: {found.best.name}",
        f"Searched for {_WANTED[found.goal.target]} in {found.seconds:,.0f} s on "
        f"{found.hardware.cpu_name}, {found.hardware.physical_cores} cores. "
        f"Digest {manifest.digest}.",
    )
    made.text(_why(found))
    for sentence in found.limits:
        made.text(f"{sentence[0].upper()}{sentence[1:]}.")
    for sentence in found.untrained:
        made.text(f"{sentence[0].upper()}{sentence[1:]}.")
    if found.stopped:
        made.text(f"The search ended early: {found.stopped}.")
    made.section("Accuracy against cost")
    made.figure(
        _plot(found),
        "Bars are 95 % intervals. On the step line lies what no other trial beats in both; the "
        "ring marks what was chosen.",
    )
    made.section("Every trial")
    best = {number for number, trial in enumerate(found.trials) if trial.key == found.best.key}
    made.table(
        ("candidate", "engine", "threads", "ms", "as fast", "rows/s", "MB", "metric", "loss"),
        [_figures(trial) for trial in found.trials],
        highlight=best,
    )
    made.table(
        ("candidate", "steps", "what became of it", "why"),
        [
            (trial.name, _steps(trial), _STATES[trial.state], trial.reason or trial.why)
            for trial in found.trials
        ],
        highlight=best,
    )
    made.section("How it was made")
    made.text(
        f"'mlserve run {found.recipe.name}' makes it again, with the same digest. "
        f"{found.evaluations} evaluations of accuracy were made."
    )
    made.table(
        ("step", "parameters"),
        [
            (
                str(step["step"]),
                ", ".join(f"{key} = {value}" for key, value in step.items() if key != "step"),
            )
            for step in found.best.steps
        ],
    )
    return made


def _why(found: Outcome) -> str:
    if not found.best.steps:
        kept = "Nothing that passes is better than the float model beyond noise, so it was kept."
        doubt = found.baseline.accuracy.proof if found.baseline.accuracy is not None else ""
        return f"{kept} {doubt[0].upper()}{doubt[1:]}." if doubt else kept
    accuracy = found.best.accuracy
    proof = accuracy.proof if accuracy is not None else ""
    said = [
        f"{found.best.name} is {found.speed_up:.2f} times as fast as the float model at batch "
        f"{found.best.figures[0].batch} and takes {file_size.text(found.best.size_bytes)} "
        f"instead of {file_size.text(found.baseline.size_bytes)}.",
        f"As to accuracy: {proof}.",
    ]
    if found.reason:
        said.append(f"{found.reason[0].upper()}{found.reason[1:]}.")
    if found.best.tuned:
        said.append(f"{_tuned(found.best)}, against the float model at its own best.")
    if not found.best.invariant:
        said.append("It is served one row at a time, and timed so.")
    return " ".join(said)


def _tuned(trial: Trial) -> str:
    several = f", {trial.instances} instances side by side" if trial.instances > 1 else ""
    return f"It runs best with {_threads(trial)}{several}"


def _threads(trial: Trial) -> str:
    return f"{trial.threads} thread{'s' if trial.threads > 1 else ''}"


def _plot(found: Outcome) -> Markup:
    target = found.goal.target
    metric = found.baseline.accuracy
    assert metric is not None  # noqa: S101 - the search has measured it first
    front = {trial.key for trial in choice.front(found.trials, target)}
    points = []
    for trial in found.trials:
        accuracy = trial.accuracy
        if accuracy is None or not trial.figures:
            continue
        x, interval = _place(trial, found)
        points.append(
            Point(
                x=x,
                y=accuracy.value,
                name=trial.name,
                group="passed" if trial.state == "passed" else _STATES[trial.state],
                x_interval=interval,
                y_interval=(accuracy.low, accuracy.high),
                front=trial.key in front,
                chosen=trial.key == found.best.key,
            )
        )
    names = {
        "latency": Axis(
            f"time of a batch of {found.best.figures[0].batch}", "ms", log=True, better="low"
        ),
        "throughput": Axis("rows a second", log=True, better="high"),
        "size": Axis("size", "MB", log=True, better="low"),
    }
    return scatter(
        points,
        names[target],
        Axis(metric.metric, metric.unit, better="high" if found.higher_is_better else "low"),
        title="Accuracy against cost",
    )


def _place(trial: Trial, found: Outcome) -> tuple[float, tuple[float, float] | None]:
    if found.goal.target == "size":
        return trial.size_bytes / 1e6, None
    if found.goal.target == "throughput":
        return trial.rows_per_s or 0.0, None
    speed = min(trial.figures, key=lambda each: each.batch)
    return speed.p50_ms, (speed.p50_low_ms, speed.p50_high_ms)


def _steps(trial: Trial) -> str:
    written = [
        " ".join([str(step["step"]), *(f"{k}={v}" for k, v in step.items() if k != "step")])
        for step in trial.steps
    ]
    return " → ".join(written) or "none"


def _drop(accuracy: Accuracy) -> str:
    value, low, high = (
        figure(each, accuracy.unit)
        for each in (accuracy.drop, accuracy.drop_low, accuracy.drop_high)
    )
    return f"{value} ({low} … {high})"


def _figures(trial: Trial) -> tuple[str | Cell, ...]:
    first = trial.figures[0] if trial.figures else None
    accuracy = trial.accuracy if trial.steps else None
    return (
        trial.name,
        trial.engine if trial.state != "failed" else "",
        Cell(f"{trial.threads} × {trial.instances}" if trial.threads else "", number=True),
        Cell(f"{first.p50_ms:.3g}" if first else "", number=True),
        Cell(
            f"{first.speed_up:.2f} ({first.speed_up_low:.2f} … {first.speed_up_high:.2f})"
            if first and trial.steps
            else "",
            number=True,
        ),
        Cell(f"{trial.rows_per_s:,.0f}" if trial.rows_per_s else "", number=True),
        Cell(file_size.megabytes(trial.size_bytes) if trial.size_bytes else "", number=True),
        Cell(
            figure(trial.accuracy.value, trial.accuracy.unit) if trial.accuracy else "",
            number=True,
        ),
        Cell(_drop(accuracy) if accuracy else "", number=True),
    )
