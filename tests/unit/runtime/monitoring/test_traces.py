"""Spans of requests, made after the answer."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from mlserve_cli.runtime.monitoring.record import Record
from mlserve_cli.runtime.monitoring.traces import Traces
from mlserve_cli.runtime.timing import Timing

pytest.importorskip("opentelemetry.sdk")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def exporter() -> Any:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter: Any) -> Iterator[Traces]:
    made = Traces(exporter=exporter)
    yield made
    made.close()


def finished(traces: Traces, exporter: Any, **changes: Any) -> dict[str, Any]:
    now = time.monotonic()
    facts: dict[str, Any] = {
        "operation": "POST /v2/models/digits/infer",
        "protocol": "oip-rest",
        "model": "digits",
        "version": "3",
        "status": 200,
        "seconds": 0.5,
        "timing": Timing(queued_at=now - 0.4, queue_s=0.1, compute_s=0.2, batch_rows=4),
        "request_id": "abc-1",
        "finished_ns": time.time_ns(),
    }
    traces(Record(**(facts | changes)))
    traces._provider.force_flush()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_has_a_span_with_its_waiting_and_its_batch_inside(
    traces: Traces, exporter: Any
) -> None:
    spans = finished(traces, exporter)
    whole = spans["POST /v2/models/digits/infer"]
    queue, compute = spans["queue"], spans["compute"]
    assert queue.parent.span_id == compute.parent.span_id == whole.context.span_id
    assert whole.end_time - whole.start_time == pytest.approx(0.5e9)
    assert queue.end_time == compute.start_time
    assert compute.end_time - compute.start_time == pytest.approx(0.2e9, rel=1e-6)
    assert whole.start_time <= queue.start_time
    assert compute.end_time <= whole.end_time
    assert whole.attributes["mlserve.model"] == "digits"
    assert whole.attributes["mlserve.batch_rows"] == 4


def test_a_span_belongs_to_the_callers_trace(traces: Traces, exporter: Any) -> None:
    spans = finished(traces, exporter, traceparent=f"00-{TRACE}-{PARENT}-01")
    whole = spans["POST /v2/models/digits/infer"]
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert f"{whole.parent.span_id:016x}" == PARENT


def test_a_caller_who_does_not_sample_is_followed(traces: Traces, exporter: Any) -> None:
    assert finished(traces, exporter, traceparent=f"00-{TRACE}-{PARENT}-00") == {}


def test_a_failure_marks_its_span(traces: Traces, exporter: Any) -> None:
    from opentelemetry.trace import StatusCode

    spans = finished(traces, exporter, status=500, reason="engine", timing=Timing())
    whole = spans["POST /v2/models/digits/infer"]
    assert whole.status.status_code is StatusCode.ERROR
    assert whole.attributes["error.type"] == "engine"
    assert set(spans) == {"POST /v2/models/digits/infer"}


def test_the_service_keeps_the_name_that_its_environment_gives(exporter: Any) -> None:
    named = Traces(exporter=exporter, environ={"OTEL_SERVICE_NAME": "shop"})
    ours = Traces(exporter=exporter, environ={})
    try:
        assert ours._provider.resource.attributes["service.name"] == "mlserve"
        assert named._provider.resource.attributes["service.name"] != "mlserve"
    finally:
        named.close()
        ours.close()
