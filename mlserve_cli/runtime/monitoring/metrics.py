"""Prometheus metrics, with histograms from the start.

The event loop owns the numbers, so they are plain numbers without locks: an observation costs a
tenth of what the client library's own counters take. The library is asked to write them down when
somebody scrapes; each server has a registry of its own.
"""

from __future__ import annotations

import time
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..engines.engine import StepTimes
from ..errors import RequestError
from . import triton_metrics

CONTENT_TYPE = CONTENT_TYPE_LATEST

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10,
)  # fmt: skip
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

_MODEL = ("model", "version")

_REPORTS = 1024  # each batch takes out what its run put in; more than the instances never wait


class Histogram:
    """Counts of values at or below each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self._counts)

    @property
    def sum(self) -> float:
        """Their sum."""
        return self._sum

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Write it down; Prometheus' buckets hold all that lies at or below their bound."""
        total = 0
        buckets = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else f"{float(bound)}", total))
        family.add_metric(labels, buckets, self._sum)


class Queue(Protocol):
    """What requests wait in."""

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a worker."""
        ...

    @property
    def queue_delay_s(self) -> float:
        """How long a request that comes now would wait."""
        ...


class ModelMetrics:
    """One model version's metrics. The batcher's `Observer`."""

    def __init__(self, name: str, version: str) -> None:
        self.labels = (name, version)
        self.requests: dict[tuple[str, int], int] = {}  # by protocol and status
        self.rejections: dict[str, int] = {}  # by reason
        self.queue_rows = 0
        self.load_seconds: float | None = None
        self.loads: dict[str, int] = {}  # by what became of them: done, failed
        # Running totals, as the statistics of the Open Inference Protocol want them.
        self.successes = self.failures = 0
        self.success_s = self.failure_s = 0.0
        self.queue_s = 0.0
        self.inferences = self.executions = 0  # rows; batches
        self.by_batch: dict[int, list[float]] = {}  # rows → [batches, seconds]
        self.last_ms = 0  # since 1970, of the last answer
        self.closings: dict[str, int] = {}  # why batches got no more requests → batches
        self.elements = self.padding = 0  # of inputs in batches that were filled up with zeros
        self.batch_rows = Histogram(ROWS)
        self.stages = {
            stage: Histogram(SECONDS) for stage in ("queue", "processing", "compute", "total")
        }
        self.steps: dict[str, Histogram] = {}  # of an ensemble, in their order
        self._queue: weakref.ref[Queue] | None = None
        self._reports: deque[StepTimes] = deque(maxlen=_REPORTS)
        self.report = self._reports.append  # engines call it on threads of their own
        self._waited = self.stages["queue"].observe
        self.processed = self.stages["processing"].observe  # decoding and encoding took … seconds
        self._compute = self.stages["compute"].observe
        self._total = self.stages["total"].observe

    def watch(self, queue: Queue) -> None:
        """Ask `queue` how long one waits in it whenever somebody scrapes; it is not kept alive."""
        self._queue = weakref.ref(queue)

    @property
    def queue_delay_s(self) -> float:
        """How long a request that comes now would wait for a worker."""
        queue = self._queue() if self._queue is not None else None
        return 0.0 if queue is None else queue.queue_delay_s

    @property
    def waiting_rows(self) -> int:
        """Rows that wait, of the batcher that takes requests: one it replaced empties beside it."""
        queue = self._queue() if self._queue is not None else None
        return self.queue_rows if queue is None else queue.queued_rows

    def loaded(self, seconds: float) -> None:
        """The model was loaded, warmed up and proven in `seconds`."""
        self.load_seconds = seconds
        self.loads["done"] = self.loads.get("done", 0) + 1

    def load_failed(self) -> None:
        """It could not be loaded; what was there before goes on."""
        self.loads["failed"] = self.loads.get("failed", 0) + 1

    def queued(self, rows: int) -> None:
        """The queue holds `rows` rows now."""
        self.queue_rows = rows

    def waited(self, seconds: float) -> None:
        """A request left the queue for a worker after `seconds`."""
        self._waited(seconds)
        self.queue_s += seconds

    def closed(self, reason: str) -> None:
        """A batch got no more requests, because of `reason`."""
        self.closings[reason] = self.closings.get(reason, 0) + 1

    def padded(self, elements: int, padding: int) -> None:
        """A batch of `elements` elements was filled up with `padding` more."""
        self.elements += elements
        self.padding += padding

    def ran(self, rows: int, seconds: float) -> None:
        """A batch of `rows` rows took `seconds`."""
        self.batch_rows.observe(rows)
        self._compute(seconds)
        self.inferences += rows
        self.executions += 1
        of_size = self.by_batch.get(rows)
        if of_size is None:
            of_size = self.by_batch[rows] = [0, 0.0]
        of_size[0] += 1
        of_size[1] += seconds
        while self._reports:
            self._stepped(self._reports.popleft())

    def _stepped(self, times: StepTimes) -> None:
        for name, seconds in zip(times.names, times.seconds, strict=True):
            histogram = self.steps.get(name)
            if histogram is None:
                histogram = self.steps[name] = Histogram(SECONDS)
            histogram.observe(seconds)

    def answered(
        self, protocol: str, status: int, seconds: float, error: RequestError | None = None
    ) -> None:
        """A request was answered with `status` after `seconds`."""
        self.count(protocol, status, error)
        self._total(seconds)
        self.last_ms = time.time_ns() // 1_000_000
        if status < 400:
            self.successes += 1
            self.success_s += seconds
        else:
            self.failures += 1
            self.failure_s += seconds

    def count(self, protocol: str, status: int, error: RequestError | None) -> None:
        """Count a request, and why it was refused."""
        key = (protocol, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        if error is not None:
            self.rejections[error.reason] = self.rejections.get(error.reason, 0) + 1


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self.is_ready = False
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._no_model = ModelMetrics("", "")
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(_Models(self))

    def model(self, name: str, version: str) -> ModelMetrics:
        """The metrics of one model version; they go on where they were if it is loaded again."""
        return self._models.setdefault((name, version), ModelMetrics(name, version))

    def count(self, protocol: str, status: int, *, error: RequestError | None = None) -> None:
        """Count a request that reached no model: its name may be anything, so it is no label."""
        self._no_model.count(protocol, status, error)

    def render(self, names: Collection[str] = ()) -> bytes:
        """The text that Prometheus scrapes; where there are `names`, of those metrics alone."""
        return generate_latest(_Named(self.registry, names) if names else self.registry)

    def families(self) -> Iterator[Metric]:
        """Every metric of the server and its models, as Prometheus' client library has them."""
        models = tuple(self._models.values())
        counted = (self._no_model, *models)
        yield _requests(counted)
        yield _rejections(counted)
        stages = HistogramMetricFamily(
            "mlserve_stage_seconds",
            "Seconds a request spent in each stage: queue, processing, compute (of its batch), "
            "total.",
            labels=(*_MODEL, "stage"),
        )
        steps = HistogramMetricFamily(
            "mlserve_step_seconds",
            "Seconds that each step of an ensemble took for a batch.",
            labels=(*_MODEL, "step"),
        )
        batch_rows = HistogramMetricFamily("mlserve_batch_rows", "Rows in a batch.", labels=_MODEL)
        queue_rows = GaugeMetricFamily(
            "mlserve_queue_rows", "Rows that wait for a worker.", labels=_MODEL
        )
        queue_delay = GaugeMetricFamily(
            "mlserve_queue_delay_seconds",
            "Seconds that a request which comes now would wait for a worker.",
            labels=_MODEL,
        )
        batches = CounterMetricFamily(
            "mlserve_batches",
            "Batches by why they got no more requests: empty, full, shape, single, half.",
            labels=(*_MODEL, "closed"),
        )
        elements = CounterMetricFamily(
            "mlserve_padding_elements",
            "Input elements of batches that were filled up: own, and the zeros beside them.",
            labels=(*_MODEL, "kind"),
        )
        load_seconds = GaugeMetricFamily(
            "mlserve_load_seconds",
            "Seconds it took to load, warm up and prove the model.",
            labels=_MODEL,
        )
        loads = CounterMetricFamily(
            "mlserve_loads",
            "Times that the model was loaded, or could not be: done, failed.",
            labels=(*_MODEL, "result"),
        )
        for model in models:
            for stage, histogram in model.stages.items():
                histogram.add_to(stages, (*model.labels, stage))
            for step, histogram in model.steps.items():
                histogram.add_to(steps, (*model.labels, step))
            model.batch_rows.add_to(batch_rows, model.labels)
            queue_rows.add_metric(model.labels, model.waiting_rows)
            queue_delay.add_metric(model.labels, model.queue_delay_s)
            for reason, count in model.closings.items():
                batches.add_metric((*model.labels, reason), count)
            if model.elements:
                elements.add_metric((*model.labels, "own"), model.elements)
                elements.add_metric((*model.labels, "padding"), model.padding)
            if model.load_seconds is not None:
                load_seconds.add_metric(model.labels, model.load_seconds)
            for result, count in model.loads.items():
                loads.add_metric((*model.labels, result), count)
        yield from (stages, steps, batch_rows, batches, queue_rows, queue_delay, elements)
        yield from (load_seconds, loads)
        yield from triton_metrics.families(models)
        yield GaugeMetricFamily(
            "mlserve_ready", "1 while predictions would succeed.", value=int(self.is_ready)
        )


class _Named(Collector):
    """Some of a registry's metrics, by the name of a family or of one of its samples."""

    def __init__(self, registry: CollectorRegistry, names: Collection[str]) -> None:
        self._registry = registry
        self._names = frozenset(names)

    def collect(self) -> Iterable[Metric]:
        """The families that are wanted, whole."""
        for family in self._registry.collect():
            names = {family.name, *(sample.name for sample in family.samples)}
            if not names.isdisjoint(self._names):
                yield family


class _Models(Collector):
    """What the registry asks when it is scraped."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """All families, with their samples."""
        return self._metrics.families()


def _requests(models: Iterable[ModelMetrics]) -> Metric:
    family = CounterMetricFamily(
        "mlserve_requests",
        "Requests that were answered.",
        labels=(*_MODEL, "protocol", "status"),
    )
    for model in models:
        classes: dict[tuple[str, str], int] = {}
        for (protocol, status), count in model.requests.items():
            key = (protocol, f"{status // 100}xx")
            classes[key] = classes.get(key, 0) + count
        for key, count in classes.items():
            family.add_metric((*model.labels, *key), count)
    return family


def _rejections(models: Iterable[ModelMetrics]) -> Metric:
    family = CounterMetricFamily(
        "mlserve_rejections",
        "Requests that were answered with an error, by its reason.",
        labels=(*_MODEL, "reason"),
    )
    for model in models:
        for reason, count in model.rejections.items():
            family.add_metric((*model.labels, reason), count)
    return family
