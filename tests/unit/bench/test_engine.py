import json

import msgspec
import numpy as np
import pytest

from mlserve_cli.bench.engine import LEAST_RUNS, ROUNDS, bench, doubts
from mlserve_cli.errors import StepError
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.hardware import Hardware
from mlserve_cli.runtime.manifest import BatchProof

US = 1_000
HERE = Hardware(
    cpu_name="a CPU",
    logical_cpus=4,
    physical_cores=2,
    cpu_quota=None,
    memory_bytes=1 << 30,
    numa_nodes=1,
    isa=("avx2",),
    gpus=(),
)


@pytest.fixture
def run(clock):
    def measure(*packages, **options):
        settings = {"seconds": 0.012, "batch_sizes": (1, 8), "clock": clock, "hardware": HERE}
        return bench(packages, **(settings | options))

    return measure


def test_percentiles_and_rows_a_second_of_every_package_and_batch(run, workshop):
    report = run(workshop("a", lambda rows: (90 + 10 * rows) * US), workshop("b", lambda _: 50_000))
    assert [(found.label, found.batch) for found in report.measurements] == [
        ("a", 1),
        ("a", 8),
        ("b", 1),
        ("b", 8),
    ]
    one, eight = report.of("a")
    assert one.p50_ms == pytest.approx(0.1)
    assert one.rows_per_s == pytest.approx(10_000)
    assert eight.p50_ms == pytest.approx(0.17)
    assert eight.rows_per_s == pytest.approx(8 / 0.17e-3)
    assert one.runs == 120
    assert one.against_first is None
    assert report.of("b")[0].against_first.median == pytest.approx(0.5)


def test_a_slow_tail_shows_in_the_high_percentiles_alone(run, workshop, journal):
    def cost(rows):
        return (1000 if len(journal) % 25 == 0 else 100) * US

    found = run(workshop("a", cost), batch_sizes=(1,), seconds=0.12).of("a")[0]
    assert found.p50_ms == pytest.approx(0.1)
    assert found.p99_ms == pytest.approx(1.0)
    assert found.p95_ms == pytest.approx(0.1)
    assert (found.p50_low_ms, found.p50_high_ms) == (pytest.approx(0.1), pytest.approx(0.1))


def test_a_slow_model_is_still_run_often_enough(run, workshop):
    found = run(workshop("a", lambda rows: 500_000 * US), batch_sizes=(1,)).of("a")[0]
    assert found.runs >= LEAST_RUNS


def test_rounds_are_interleaved_in_an_order_that_the_seed_gives(run, workshop, journal):
    packages = [workshop(name, lambda rows: 100 * US) for name in "abc"]
    run(*packages, batch_sizes=(1,), seed=3)
    first = list(journal)
    visits = [
        name
        for (name, _), before in zip(first, [("", 0), *first], strict=False)
        if name != before[0]
    ]
    # Two visits of one package may meet at the seam of two rounds, no more.
    assert len(visits) >= 3 * (ROUNDS + 1) - ROUNDS
    assert len({tuple(visits[start : start + 3]) for start in range(0, 30, 3)}) > 2
    journal.clear()
    run(*packages, batch_sizes=(1,), seed=3)
    assert journal == first


def test_a_package_of_single_rows_is_measured_row_by_row(run, workshop, journal):
    report = run(workshop("a", lambda rows: 100 * US, batch=BatchProof(invariant=False)))
    one, eight = report.of("a")
    assert {rows for _, rows in journal} == {1}
    assert eight.p50_ms == pytest.approx(0.8)
    assert (one.row_by_row, eight.row_by_row) == (False, True)


def test_the_physical_cores_are_taken_unless_threads_were_given(run, workshop):
    report = run(workshop("a", lambda rows: 100 * US))
    assert report.threads == 2
    assert workshop.engines["a"].options.threads == 2
    report = run(workshop("a", lambda rows: 100 * US), options=EngineOptions(threads=1))
    assert report.threads == 1
    assert workshop.engines["a"].options.threads == 1


def test_the_document_and_the_evidence_hold_every_figure_and_where_it_was_measured(run, workshop):
    report = run(workshop("a", lambda rows: 100 * US), workshop("b", lambda rows: 50 * US))
    document = report.document()
    assert document["schema"] == 1
    assert document["hardware"] == msgspec.to_builtins(HERE)
    assert [item["label"] for item in document["packages"]] == ["a", "b"]
    batches = document["packages"][1]["batches"]
    assert [found["batch"] for found in batches] == [1, 8]
    assert batches[0]["against_first"]["verdict"] == "faster"
    evidence = report.evidence(report.packages[1])
    assert evidence["first"]["digest"] == "sha256:a"
    assert evidence["summary"].startswith("batch 1: 0.05 ms, 20,000 rows/s; batch 8")
    assert evidence["batches"] == batches
    assert json.loads(json.dumps(document))["packages"][0]["engine"] == "onnxruntime"


def test_engines_are_closed_when_it_is_interrupted(run, workshop):
    def interrupted(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(workshop("a", lambda rows: 100 * US), workshop("b", interrupted))
    assert all(engine.closed for engine in workshop.engines.values())
    assert len(workshop.engines) == 2


def test_no_package_is_an_error():
    with pytest.raises(StepError, match="no package"):
        bench([])


def test_what_makes_figures_doubtful_is_said():
    assert doubts(HERE, load=1.0) == []
    assert doubts(HERE, load=5.5) == ["the machine is busy with other work (load 5.5 on 4 CPUs)"]
    limited = msgspec.structs.replace(HERE, cpu_quota=1.5)
    assert doubts(limited, load=0.0) == ["a quota of 1.5 of 4 CPUs throttles it"]


def test_intervals_contain_their_medians(run, workshop):
    random = np.random.default_rng(5)
    report = run(workshop("a", lambda rows: random.lognormal(0, 0.3) * 100 * US), seconds=0.05)
    for found in report.measurements:
        assert found.p50_low_ms < found.p50_ms < found.p50_high_ms
        assert found.p50_ms < found.p95_ms < found.p99_ms


def test_a_percentile_is_told_only_from_enough_runs_and_has_its_interval(run, workshop):
    random = np.random.default_rng(1)

    def cost(rows):
        return random.lognormal(0, 0.5) * 10 * US

    few = run(workshop("a", cost), batch_sizes=(1,), seconds=0.002)
    many = run(workshop("b", cost), batch_sizes=(1,), seconds=0.12)
    (short,), (long,) = few.measurements, many.measurements
    assert [found.name for found in short.tail] == ["p90", "p95", "p99"]
    assert any("too few runs for p99, p99.9" in warning for warning in few.warnings)
    assert [found.name for found in long.tail] == ["p90", "p95", "p99", "p99_9"]
    assert long.runs > 5000
    assert not any("too few" in warning for warning in many.warnings)
    for found, deviations in zip(long.tail, (1.2816, 1.6449, 2.3263), strict=False):
        assert found.low_ms < found.ms < found.high_ms
        assert found.ms == pytest.approx(0.01 * np.exp(0.5 * deviations), rel=0.05)


def test_the_first_answer_and_the_csv_are_in_the_report(run, workshop, journal):
    def cost(rows):
        return (1000 if len(journal) == 1 else 100) * US

    report = run(workshop("a", cost), batch_sizes=(1, 8))
    assert report.packages[0].first_ms == pytest.approx(1.0)
    head, *lines = report.csv().splitlines()
    first = dict(zip(head.split(","), lines[0].split(","), strict=True))
    assert len(lines) == 2
    assert (first["label"], first["batch"], first["p50_ms"]) == ("a", "1", "0.1")
    assert first["p99_9_ms"] == ""
    assert float(first["rows_per_s"]) == pytest.approx(10_000)
