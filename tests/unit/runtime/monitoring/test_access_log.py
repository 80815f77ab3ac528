"""Which requests get a line, and what stands in it."""

import json
import logging

import pytest

from mlserve_cli.runtime.monitoring import access_log
from mlserve_cli.runtime.monitoring.logs import JsonFormatter
from mlserve_cli.runtime.monitoring.record import Record, Watchers
from mlserve_cli.runtime.timing import Timing

Caught = pytest.LogCaptureFixture


def record(status: int = 200, **changes: object) -> Record:
    facts: dict[str, object] = {
        "operation": "POST /v2/models/digits/infer",
        "protocol": "oip-rest",
        "model": "digits",
        "version": "3",
        "status": status,
        "seconds": 0.0125,
        "timing": Timing(queue_s=0.002, compute_s=0.01, batch_rows=8),
        "request_id": "abc-1",
        "finished_ns": 0,
    }
    return Record(**(facts | changes))  # type: ignore[arg-type]


@pytest.fixture
def caught(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Caught:
    monkeypatch.setattr(logging.getLogger("mlserve"), "propagate", True)
    caplog.set_level(logging.INFO, logger="mlserve.requests")
    return caplog


def test_nobody_is_told_where_the_log_is_off() -> None:
    watchers = Watchers()
    watchers.log("failures", access_log.write)
    watchers.log("off", access_log.write)
    assert watchers.of(200) == watchers.of(500) == ()


def test_only_a_request_that_failed_by_our_fault_gets_a_line_by_default(caught: Caught) -> None:
    watchers = Watchers()
    watchers.log("failures", access_log.write)
    for status in (200, 400, 503, 504, 500):
        for watcher in watchers.of(status):
            watcher(record(status))
    assert [line.status for line in caught.records] == [500]  # type: ignore[attr-defined]
    assert caught.records[0].levelno == logging.WARNING


def test_a_line_in_json_joins_the_request_its_model_and_its_trace(caught: Caught) -> None:
    watchers = Watchers()
    watchers.log("all", access_log.write)
    [watcher] = watchers.of(200)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    watcher(record(traceparent=f"00-{trace}-00f067aa0ba902b7-01"))
    found = json.loads(JsonFormatter().format(caught.records[0]))
    assert found["request_id"] == "abc-1"
    assert found["trace_id"] == trace
    assert (found["model"], found["version"], found["batch_rows"]) == ("digits", "3", 8)
    assert (found["ms"], found["queue_ms"], found["compute_ms"]) == (12.5, 2.0, 10.0)
