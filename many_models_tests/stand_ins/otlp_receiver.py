"""A collector on loopback that decodes what it is sent by OTLP over HTTP, and refuses what the protocol refuses."""

from __future__ import annotations

import gzip
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from many_models_tests.support.running_server import serving

if TYPE_CHECKING:
    from collections.abc import Generator


class Collector(ThreadingHTTPServer):
    """`spans` and `metrics` are what it took, each with the name of its service; with `status` it refuses all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[tuple[str, Any]] = []
        self.metrics: list[tuple[str, Any]] = []
        self.status = 0
        self.taken = threading.Condition()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, path: str, body: bytes) -> int:
        """Keeps what was sent. Returns the status to answer with."""
        if path == "/v1/traces":
            sent: Any = ExportTraceServiceRequest()
        elif path == "/v1/metrics":
            sent = ExportMetricsServiceRequest()
        else:
            return 404
        try:
            sent.ParseFromString(body)
        except DecodeError:
            return 400
        with self.taken:
            if path == "/v1/metrics":
                self.metrics += [
                    (_service(part), metric)
                    for part in sent.resource_metrics for scope in part.scope_metrics for metric in scope.metrics
                ]  # fmt: skip
            else:
                spans = [
                    (_service(part), span)
                    for part in sent.resource_spans for scope in part.scope_spans for span in scope.spans
                ]  # fmt: skip
                if not all(_is_valid(span) for _, span in spans):
                    return 400
                self.spans += spans
            self.taken.notify_all()
        return 200

    def wait_for(self, what: str, seconds: float = 120.0) -> None:
        """Until there are `spans` or `metrics`."""
        with self.taken:
            assert self.taken.wait_for(lambda: getattr(self, what), seconds), f"no {what}"


def _service(part: Any) -> str:
    return next(one.value.string_value for one in part.resource.attributes if one.key == "service.name")


def _is_valid(span: Any) -> bool:
    ids = len(span.trace_id) == 16 and len(span.span_id) == 8 and any(span.trace_id) and any(span.span_id)
    return ids and bool(span.name) and 0 < span.start_time_unix_nano <= span.end_time_unix_nano


def about(one: Any) -> dict[str, Any]:
    """Attributes of a span or of a metric's point."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in one.attributes}


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        status = self.server.status
        if not status and self.headers.get("content-type") != "application/x-protobuf":
            status = 415
        self.send_response(status or self.server.take(self.path, body))
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def collector() -> Generator[Collector]:
    """A collector until the block ends."""
    with serving(Collector()) as server:
        yield server
