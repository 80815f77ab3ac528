import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlserve_cli.runtime.errors import Overloaded
from mlserve_cli.runtime.monitoring.metrics import Metrics, ModelMetrics
from mlserve_cli.runtime.shadow import ShadowMetrics

DOCS = Path(__file__).parents[4] / "docs"


@pytest.fixture
def metrics():
    return Metrics()


def value(metrics, name, **labels):
    """The one sample of that name and labels, as Prometheus' own parser reads it."""
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def test_requests_are_counted_by_protocol_and_status_class(metrics):
    model = metrics.model("m", "1")
    for status in (200, 200, 404, 499):
        model.answered("oip-rest", status, 0.01)

    labels = {"model": "m", "version": "1", "protocol": "oip-rest"}
    assert value(metrics, "mlserve_requests_total", **labels, status="2xx") == 2
    assert value(metrics, "mlserve_requests_total", **labels, status="4xx") == 2


def test_rejections_are_counted_by_reason(metrics):
    metrics.model("m", "1").answered("predict", 503, 0.01, Overloaded("full"))
    metrics.count("predict", 503, error=Overloaded("full"))

    for model, version in (("m", "1"), ("", "")):
        labels = {"model": model, "version": version, "reason": "overloaded"}
        assert value(metrics, "mlserve_rejections_total", **labels) == 1


def test_a_histogram_counts_what_is_at_or_below_each_bound(metrics):
    model = metrics.model("m", "1")
    for rows in (1, 2, 2, 3, 600):
        model.ran(rows, 0.02)

    labels = {"model": "m", "version": "1"}
    counts = {"1.0": 1, "2.0": 3, "4.0": 4, "512.0": 4, "+Inf": 5}
    for bound, count in counts.items():
        assert value(metrics, "mlserve_batch_rows_bucket", **labels, le=bound) == count
    assert value(metrics, "mlserve_batch_rows_count", **labels) == 5
    assert value(metrics, "mlserve_batch_rows_sum", **labels) == 608


def test_each_stage_has_its_own_histogram(metrics):
    model = metrics.model("m", "1")
    model.waited(0.001)
    model.ran(4, 0.02)
    model.processed(0.3)
    model.answered("predict", 200, 0.5)

    sums = {"queue": 0.001, "compute": 0.02, "processing": 0.3, "total": 0.5}
    for stage, seconds in sums.items():
        found = value(metrics, "mlserve_stage_seconds_sum", model="m", version="1", stage=stage)
        assert found == pytest.approx(seconds)


def test_gauges_hold_the_last_value(metrics):
    model = metrics.model("m", "1")
    model.queued(7)
    model.queued(3)
    model.loaded(1.5)
    metrics.is_ready = True

    assert value(metrics, "mlserve_queue_rows", model="m", version="1") == 3
    assert value(metrics, "mlserve_load_seconds", model="m", version="1") == 1.5
    assert value(metrics, "mlserve_ready") == 1


def test_a_model_that_is_loaded_again_goes_on_counting(metrics):
    metrics.model("m", "1").answered("predict", 200, 0.1)
    metrics.model("m", "1").answered("predict", 200, 0.1)

    labels = {"model": "m", "version": "1", "protocol": "predict", "status": "2xx"}
    assert value(metrics, "mlserve_requests_total", **labels) == 2


def test_an_odd_name_is_escaped(metrics):
    metrics.model('a"b\\c', "1").queued(1)

    assert value(metrics, "mlserve_queue_rows", model='a"b\\c', version="1") == 1


def test_two_servers_in_one_process_do_not_share_figures(metrics):
    metrics.model("m", "1").queued(5)

    assert value(Metrics(), "mlserve_queue_rows", model="m", version="1") is None


def test_the_process_itself_is_measured(metrics):
    assert value(metrics, "process_resident_memory_bytes") > 0


def test_the_steps_of_an_ensemble_are_counted_when_their_batch_is_done(metrics):
    from mlserve_cli.runtime.engines import StepTimes

    model = metrics.model("m", "1")
    model.report(StepTimes(("scale", "vote"), [0.25, 0.5]))
    labels = {"model": "m", "version": "1", "step": "scale"}
    assert value(metrics, "mlserve_step_seconds_count", **labels) is None
    model.ran(2, 0.8)
    model.report(StepTimes(("scale", "vote"), [0.75, 0.5]))
    model.ran(1, 1.3)

    assert value(metrics, "mlserve_step_seconds_count", **labels) == 2
    assert value(metrics, "mlserve_step_seconds_sum", **labels) == 1.0
    assert list(model.steps) == ["scale", "vote"]


def test_how_long_a_newcomer_would_wait_is_asked_when_somebody_scrapes(metrics):
    labels = {"model": "m", "version": "1"}
    model = metrics.model("m", "1")
    assert value(metrics, "mlserve_queue_delay_seconds", **labels) == 0  # nobody can wait yet

    class Queue:
        queue_delay_s = 0.25
        queued_rows = 0

    queue = Queue()
    model.watch(queue)
    assert value(metrics, "mlserve_queue_delay_seconds", **labels) == 0.25
    queue.queue_delay_s = 0.5
    assert value(metrics, "mlserve_queue_delay_seconds", **labels) == 0.5

    del queue  # it was unloaded: nothing here keeps it alive
    assert value(metrics, "mlserve_queue_delay_seconds", **labels) == 0


def test_loads_are_counted_by_what_became_of_them(metrics):
    model = metrics.model("m", "1")
    model.loaded(1.5)
    model.loaded(2.5)
    model.load_failed()

    labels = {"model": "m", "version": "1"}
    assert value(metrics, "mlserve_loads_total", **labels, result="done") == 2
    assert value(metrics, "mlserve_loads_total", **labels, result="failed") == 1
    assert value(metrics, "mlserve_load_seconds", **labels) == 2.5


def test_every_metric_that_the_guides_name_is_there_and_every_one_that_is_there_is_named(metrics):
    shadows = ShadowMetrics()
    shadows.tally("m", "1", "2")
    metrics.registry.register(shadows)
    model = metrics.model("m", "1")
    model.report(SimpleNamespace(names=("step",), seconds=[0.1]))
    model.answered("predict", 503, 0.01, Overloaded("full"))
    model.closed("full")
    model.padded(3, 1)
    model.loaded(1.0)
    model.ran(1, 0.01)

    guides = " ".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md")))
    written = set(re.findall(r"\b(mlserve_[a-z_]+[a-z])\b(?!_…)(?!_runtime)", guides))
    named = {name for name in written if not name.startswith(("mlserve_cli", "mlserve_runtime"))}
    there = set()
    for family in text_string_to_metric_families(metrics.render().decode()):
        names = {family.name, *(sample.name for sample in family.samples)}
        if family.name.startswith("mlserve_"):
            assert names & named, f"no guide names {family.name}"
        there |= names
    assert {name for name in named - there if not name.startswith("mlserve_feedback")} == set()


def test_rows_that_wait_are_those_of_the_batcher_that_takes_requests_now():
    class Queue(SimpleNamespace):
        __hash__ = object.__hash__

    metrics = ModelMetrics("m", "1")
    metrics.queued(3)
    assert metrics.waiting_rows == 3
    live = Queue(queued_rows=7, queue_delay_s=0.0)
    metrics.watch(live)
    metrics.queued(0)  # by the batcher that was replaced, when it is empty
    assert metrics.waiting_rows == 7
