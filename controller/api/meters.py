"""The API's own metrics. Names of verbs and resources are ours, so that no client can make series."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


@dataclass(frozen=True, slots=True)
class Meters:
    requests: Counter
    seconds: Histogram
    watchers: Gauge
    quarantined: Gauge
    consoles: Gauge


def make_meters(registry: CollectorRegistry) -> Meters:
    return Meters(
        Counter("domctl_api_requests", "Requests answered", ("verb", "resource", "code"), registry=registry),
        Histogram(
            "domctl_api_request_seconds",
            "Time to answer, watches excepted",
            ("verb",),
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
            registry=registry,
        ),
        Gauge("domctl_api_watchers", "Open watches", registry=registry),
        Gauge("domctl_objects_quarantined", "Unreadable values met in the store", registry=registry),
        Gauge("domctl_api_console_clients", "Clients that follow or type on consoles", registry=registry),
    )
