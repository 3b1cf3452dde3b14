"""Traces and metrics by OTLP over HTTP, through OpenTelemetry's SDK; its own providers, so that no library's mix in."""

from __future__ import annotations

import hashlib
import logging
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from many_models.errors import MissingDependencyError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from many_models.ports import Answered, FinishedRun

NANO = 1_000_000_000
SECONDS = 5.0  # that a collector has to answer
EVERY_MILLIS = 15_000  # metrics of the endpoint are sent so often
LAST_MILLIS = 2_000  # that the end waits for what is held
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
RUN_BUCKETS = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 14400)


class OtlpTelemetry:
    """Tells the collector at `endpoint` of `service`. Raises MissingDependencyError without the extra `telemetry`.

    What a run did is sent at once and the answer awaited; of requests, spans are sent in batches by a thread and
    metrics every quarter of a minute, and what the collector does not take is dropped.
    """

    def __init__(self, endpoint: str, service: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
        except ImportError as error:
            raise MissingDependencyError("[telemetry] needs a package: pip install 'many_models[telemetry]'") from error
        logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.ERROR)  # it warns of every try
        self._endpoint = endpoint
        self._resource = Resource.create({"service.name": service})
        self._spans = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=SECONDS)
        self._metrics = OTLPMetricExporter(f"{endpoint}/v1/metrics", timeout=SECONDS)

    # --- runs -------------------------------------------------------------------------------------------------------
    def runs(self, runs: Sequence[FinishedRun]) -> None:
        """See `Telemetry.runs`."""
        if not runs:
            return
        from opentelemetry.sdk.metrics.export import MetricExportResult
        from opentelemetry.sdk.trace.export import SpanExportResult

        spans = self._spans_of(runs)
        metrics = self._metrics_of(runs)
        if self._spans.export(spans) is not SpanExportResult.SUCCESS:
            raise UnavailableError(f"{self._endpoint} did not take {len(spans)} spans")
        if self._metrics.export(metrics) is not MetricExportResult.SUCCESS:
            raise UnavailableError(f"{self._endpoint} did not take the metrics of {len(runs)} runs")

    def _spans_of(self, runs: Sequence[FinishedRun]) -> list[Any]:
        """A span for each run, and one in it for each of its steps, at the times when they were."""
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        made, ids = InMemorySpanExporter(), _ids_of_runs()
        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False, id_generator=ids)
        provider.add_span_processor(SimpleSpanProcessor(made))
        tracer = provider.get_tracer("many_models")
        for run in runs:
            ids.run_id, ids.spans = run.run_id, 0
            known = {"dagster.run_id": run.run_id, "many_models.stage": run.stage, "many_models.status": run.status}
            counts = {"many_models.series.done": run.done, "many_models.series.failed": run.failed}
            known |= {name: count for name, count in counts.items() if count is not None}
            span = tracer.start_span(f"run {run.stage}", start_time=_nanos(run.started), attributes=known)
            if run.status == "FAILURE":
                span.set_status(trace.StatusCode.ERROR, run.error)
            inside = trace.set_span_in_context(span)
            for step in run.steps:
                part = tracer.start_span(step.name, inside, start_time=_nanos(step.started))
                if step.failed:
                    part.set_status(trace.StatusCode.ERROR)
                part.end(_nanos(max(step.ended, step.started)))
            span.end(_nanos(max(run.ended, run.started)))
        return list(made.get_finished_spans())

    def _metrics_of(self, runs: Sequence[FinishedRun]) -> Any:
        """What these runs add up to: a collector sums what is sent, since each says when its counting began."""
        from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
        from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

        delta = {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}
        reader = InMemoryMetricReader(preferred_temporality=delta)
        provider = MeterProvider([reader], self._resource, shutdown_on_exit=False)
        meter = provider.get_meter("many_models")
        count = meter.create_counter("many_models.runs", description="Runs that ended.")
        series = meter.create_counter("many_models.series", description="Series that runs did, or that failed.")
        seconds = meter.create_histogram(
            "many_models.run.duration", "s", "How long runs took.", explicit_bucket_boundaries_advisory=RUN_BUCKETS
        )
        for run in runs:
            count.add(1, {"stage": run.stage, "status": run.status})
            seconds.record(max(run.ended - run.started, 0.0), {"stage": run.stage})
            for outcome, number in (("done", run.done), ("failed", run.failed)):
                if number:
                    series.add(number, {"stage": run.stage, "outcome": outcome})
        found = reader.get_metrics_data()
        provider.shutdown()
        return found

    # --- requests ---------------------------------------------------------------------------------------------------
    def answered(self, request: Answered) -> None:
        """See `Telemetry.answered`."""
        ended = time.time_ns()
        about = {
            "http.request.method": request.method,
            "http.route": request.route,
            "http.response.status_code": request.status,
        }
        tracer, seconds, series = self._of_requests
        seconds.record(request.seconds, about)
        if request.series:
            series.add(request.series, {"http.route": request.route})
        span = tracer.start_span(
            f"{request.method} {request.route}",
            _parent(request.parent),
            start_time=ended - int(request.seconds * NANO),
            attributes={**about, "many_models.series.asked": request.series},
        )
        if request.status >= 500:
            from opentelemetry.trace import StatusCode

            span.set_status(StatusCode.ERROR)
        span.end(ended)

    @cached_property
    def _providers(self) -> tuple[Any, Any]:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        traces = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        traces.add_span_processor(BatchSpanProcessor(self._spans))
        reader = PeriodicExportingMetricReader(self._metrics, EVERY_MILLIS)
        return traces, MeterProvider([reader], self._resource, shutdown_on_exit=False)

    @cached_property
    def _of_requests(self) -> tuple[Any, Any, Any]:
        """The tracer, the histogram of seconds and the counter of series."""
        traces, metrics = self._providers
        meter = metrics.get_meter("many_models")
        seconds = meter.create_histogram(
            "http.server.request.duration", "s", "Time to answer.", explicit_bucket_boundaries_advisory=BUCKETS
        )
        return traces.get_tracer("many_models"), seconds, meter.create_counter("many_models.series.asked")

    def close(self) -> None:
        """See `Telemetry.close`."""
        if "_providers" in vars(self):
            traces, metrics = self._providers
            traces.force_flush(LAST_MILLIS)
            traces.shutdown()
            metrics.shutdown(LAST_MILLIS)


def _ids_of_runs() -> Any:
    """Numbers that follow from the run's id: what is sent again is the same trace."""
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class OfRuns(IdGenerator):
        run_id, spans = "", 0

        def generate_trace_id(self) -> int:
            return self._number("trace", 16)

        def generate_span_id(self) -> int:
            self.spans += 1
            return self._number(f"span {self.spans}", 8)

        def _number(self, what: str, size: int) -> int:
            return int.from_bytes(hashlib.sha256(f"{self.run_id} {what}".encode()).digest()[:size], "big")

    return OfRuns()


def _nanos(seconds: float) -> int:
    return int(seconds * NANO)


def _parent(header: str) -> Any:
    """The context that a traceparent header names (W3C Trace Context); none where it is not one."""
    if not header:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": header})
