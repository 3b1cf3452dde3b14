"""What Prometheus reads. Labels are few and fixed: no series, no client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from many_models.serving.service import Service

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
PREFIX = "many_models"


class Metrics:
    """The service's metrics in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = self.registry
        self.requests = Counter(
            f"{PREFIX}_requests", "Requests by route and status.", ["route", "status"], registry=own
        )
        self.seconds = Histogram(
            f"{PREFIX}_request_seconds", "Time to answer, by route.", ["route"], buckets=SECONDS, registry=own
        )
        self.series = Counter(
            f"{PREFIX}_series", "Series answered, by outcome: ok, or the kind of error.", ["outcome"], registry=own
        )
        self.fetches = Counter(
            f"{PREFIX}_pack_fetches", "Packs fetched from the registry, by outcome.", ["outcome"], registry=own
        )

        self.refused = Counter(
            f"{PREFIX}_connections_refused",
            "Connections that ended before a request was read, by reason.",
            ["reason"],
            registry=own,
        )

    def watch(self, service: Service) -> None:
        """Add what is read from the service when Prometheus asks."""
        self.registry.register(_OfService(service))

    def fetched(self, outcome: str) -> None:
        """Count a fetch of a pack, by how it ended."""
        self.fetches.labels(outcome).inc()


class _OfService:
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        cache, follower = self._service.cache, self._service.follower
        counts, contact, current = cache.counts, follower.contact, follower.current
        for name, value, text in (
            ("cache_hits", counts.hits, "Packs that were loaded when they were asked for."),
            ("cache_loads", counts.loads, "Packs loaded."),
            ("cache_waits", counts.waits, "Requests that waited for a load that another had begun."),
            ("cache_evictions", counts.evictions, "Packs that left for others."),
            ("cache_failures", counts.failures, "Loads that failed."),
            ("release_switches", contact.switches, "Releases taken over since the start."),
        ):
            yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
        for name, value, text in (
            ("cache_bytes", cache.bytes, "Memory that loaded packs take."),
            ("cache_budget_bytes", cache.budget, "Memory that they may take."),
            ("cache_packs", len(cache), "Packs loaded now."),
            ("registry_up", int(contact.reachable), "1 when the registry answered last time."),
            ("registry_seconds", time.monotonic() - contact.since, "Seconds since the registry answered."),
            ("release_refused", int(bool(contact.refused)), "1 when the newest release is refused."),
            ("disk_full", int(self._service.packs.full), "1 when packs cannot be kept on the local disk."),
            ("release_series", len(current) if current else 0, "Series in the live release."),
            ("release_timestamp_seconds", current.created_at.timestamp() if current else 0, "When it was made."),
        ):
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
