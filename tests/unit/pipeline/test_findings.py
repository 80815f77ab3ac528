"""The report of a search says of each trial what became of it and why."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from mlserve_cli.cli import optimize
from mlserve_cli.pipeline import findings
from mlserve_cli.pipeline.optimize import Goal, Outcome
from mlserve_cli.runtime.hardware import Hardware
from mlserve_cli.search.trial import Accuracy, Speed, Trial


def trial(name, times, drop, state="passed", reason="", steps=({"step": "quantize"},)):
    return Trial(
        key=name,
        name=name,
        steps=steps,
        state=state,
        reason=reason,
        size_bytes=1_000_000,
        speeds=(
            Speed(
                batch=1, p50_ms=8 / times, p50_low_ms=7 / times, p50_high_ms=9 / times,
                rows_per_s=125 * times, speed_up=times, speed_up_low=times, speed_up_high=times,
            ),
        ),
        accuracy=Accuracy(
            metric="accuracy", unit="points", value=97 - drop, low=95, high=98, n=9, drop=drop,
            proof="that is proven",
        ),
    )  # fmt: skip


@pytest.fixture
def outcome(iris_package):
    baseline = trial("float", 1.0, 0.0, steps=())
    best = trial("<int8>", 3.0, 0.1)
    worse = trial("bad", 4.0, 9.0, state="inaccurate", reason="loss 9 points")
    broken = Trial(key="x", name="broken", steps=({"step": "quantize"},), state="failed",
                   reason="no rows & no hope")  # fmt: skip
    return Outcome(
        package=iris_package(),
        best=best,
        baseline=baseline,
        trials=(baseline, best, worse, broken),
        goal=Goal(),
        hardware=Hardware(
            cpu_name="A CPU", logical_cpus=2, physical_cores=2, cpu_quota=None, memory_bytes=1,
            numa_nodes=1, isa=(),
        ),
        recipe=Path("best.recipe.toml"),
        report=Path("best.report.html"),
        evaluations=2,
        seconds=12.0,
        stopped="the budget of 10 s was used up",
    )  # fmt: skip


def test_every_trial_stands_there_with_what_became_of_it(outcome):
    text = findings.page(outcome).render()
    for words in (
        "&lt;int8&gt;", "3.00 times as fast", "loses too much", "loss 9 points",
        "no rows &amp; no hope", "best.recipe.toml", "the budget of 10 s was used up",
    ):  # fmt: skip
        assert words in text
    assert "<int8>" not in text
    assert not re.search(r"https?://(?!www\.w3\.org)", text)


@pytest.mark.parametrize("target", ["latency", "throughput", "size"])
def test_the_plot_is_of_what_was_wanted(outcome, target):
    import dataclasses

    text = findings.page(dataclasses.replace(outcome, goal=Goal(target=target))).render()
    title = {"latency": "time of a batch of 1", "throughput": "rows a second", "size": "size"}
    assert title[target] in text
    assert text.count("<circle") + text.count("<path") >= 3


def test_a_search_that_found_nothing_says_that_the_float_model_was_kept(outcome):
    import dataclasses

    kept = dataclasses.replace(outcome, best=outcome.baseline, trials=(outcome.baseline,))
    assert "so it was kept" in findings.page(kept).render()


def test_the_table_of_candidates_names_each_in_eighty_columns(outcome, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    long = trial("int8-percentile-corrected", 2.0, 0.2)
    optimize._print(replace(outcome, trials=(*outcome.trials, long)))

    shown = capsys.readouterr().out
    assert "│int8-percentile-corrected " in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_headings_are_whole_and_rows_need_one_line_where_there_is_room(
    outcome, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", "100")
    optimize._print(outcome)

    shown = capsys.readouterr().out
    assert "threads" in shown
    assert "points" in shown
    assert "…" not in shown


def test_a_metric_that_is_not_in_points_keeps_its_digits(outcome, capsys):
    small = Accuracy(
        metric="cosine", unit="", value=0.99283, low=0.9926, high=0.993, n=9,
        drop=0.00717, drop_low=0.007, drop_high=0.0074,
    )  # fmt: skip
    best = structs.replace(outcome.best, accuracy=small)
    found = replace(outcome, best=best, trials=(outcome.baseline, best))

    assert "0.00717 (0.007 … 0.0074)" in findings.page(found).render()
    assert optimize._figures(best)[-2:] == ["0.9928", "0.00717"]
