"""The same figures under Triton's metric names, so that its dashboards and alerts go on working.

Names and units are those of Triton's metrics documentation ("Inference Request Metrics"): totals
per model and version, times in microseconds. What is not measured here is not invented.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import Metric

if TYPE_CHECKING:
    from .metrics import ModelMetrics


def families(models: Iterable[ModelMetrics]) -> Iterator[Metric]:
    """Every family, with a sample for each model version."""
    success = _family("request_success", "Requests answered.")
    failure = _family("request_failure", "Requests refused or failed, by reason.")
    count = _family("count", "Rows that were computed.")
    executions = _family("exec_count", "Batches that were computed.")
    duration = _family("request_duration_us", "Time of all requests from head to answer.")
    queue = _family("queue_duration_us", "Time that all requests waited for a worker.")
    for model in models:
        labels = dict(zip(("model", "version"), model.labels, strict=True))
        _add(success, labels, model.successes)
        for reason, number in model.rejections.items():
            _add(failure, {**labels, "reason": reason}, number)
        _add(count, labels, model.inferences)
        _add(executions, labels, model.executions)
        _add(duration, labels, round((model.success_s + model.failure_s) * 1e6))
        _add(queue, labels, round(model.queue_s * 1e6))
    yield from (success, failure, count, executions, duration, queue)


def _family(name: str, text: str) -> Metric:
    # Not "counter": the library would append "_total" to the names, which Triton's have not.
    return Metric(f"nv_inference_{name}", f"{text} (Triton's name.)", "unknown")


def _add(family: Metric, labels: dict[str, str], value: float) -> None:
    family.add_sample(family.name, labels, value)
