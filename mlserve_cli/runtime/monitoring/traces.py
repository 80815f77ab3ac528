"""OpenTelemetry spans of the requests (extra `otel`).

The spans are made after the answer, from the times that were taken anyway: a request that is
answered in 0.3 ms has no time for context managers. The SDK sends them from a thread of its own.

Its own environment variables say where to and how many (OpenTelemetry specification, "Environment
Variable Specification" and "OTLP Exporter"): OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER,
OTEL_SERVICE_NAME and the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StartupError
from .record import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_VERSION = Path(__file__).parent.parent / "VERSION"
_FLUSH_MS = 3000  # at the end; a collector that is away must not keep a server from ending


class Traces:
    """Turns records into spans. Call it with each record; `close` it at the end.

    exporter: where spans go; an OTLP exporter over HTTP by default. Raises `StartupError` where
    the SDK is not installed.
    """

    def __init__(
        self, *, exporter: SpanExporter | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import (
                TraceContextTextMapPropagator,
            )

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter()
        except ImportError as error:
            raise StartupError(
                f"traces = 'otlp' needs OpenTelemetry, which is not installed: {error}.",
                hint="pip install 'mlserve-cli[otel]'",
            ) from error
        named = "OTEL_SERVICE_NAME" in environ or "service.name" in environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        version = _VERSION.read_text(encoding="utf-8").strip()
        resource = Resource.create({} if named else {"service.name": "mlserve"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("mlserve", version)
        self._kind = trace.SpanKind.SERVER
        self._failed = trace.Status(trace.StatusCode.ERROR)
        self._extract = TraceContextTextMapPropagator().extract
        self._within = trace.set_span_in_context

    def __call__(self, record: Record) -> None:
        """Make the span of a request, and those of its waiting and its batch."""
        start = record.finished_ns - int(record.seconds * 1e9)
        carrier = {"traceparent": record.traceparent, "tracestate": record.tracestate}
        attributes: dict[str, Any] = {
            "mlserve.protocol": record.protocol,
            "mlserve.request_id": record.request_id,
            "http.response.status_code": record.status,
        }
        if record.model:
            attributes |= {
                "mlserve.model": record.model,
                "mlserve.version": record.version,
                "mlserve.batch_rows": record.timing.batch_rows,
            }
        if record.reason:
            attributes["error.type"] = record.reason
        span = self._tracer.start_span(
            record.operation,
            context=self._extract(carrier) if record.traceparent else None,
            kind=self._kind,
            attributes=attributes,
            start_time=start,
        )
        if span.is_recording() and record.timing.queued_at:
            self._stages(self._within(span), record)
        if record.status >= 500:
            span.set_status(self._failed)
        span.end(record.finished_ns)

    def _stages(self, context: Any, record: Record) -> None:
        timing = record.timing
        queued = time.time_ns() - int((time.monotonic() - timing.queued_at) * 1e9)
        taken = queued + int(timing.queue_s * 1e9)
        self._tracer.start_span("queue", context=context, start_time=queued).end(taken)
        done = taken + int(timing.compute_s * 1e9)
        self._tracer.start_span("compute", context=context, start_time=taken).end(done)

    def close(self) -> None:
        """Send what is left, and end the sending thread. Blocks for up to some seconds."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()
