"""What `/metrics` tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily

from inspection.rules import Code
from service.events import Inspected

if TYPE_CHECKING:
    from service.line import Line

BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10)  # seconds


class Metrics:
    """The figures of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.pictures = Counter("tandem_pictures", "Images with an outcome", ["verdict", "source"], registry=self.registry)
        self.refused = Counter("tandem_refused", "Requests that were not accepted", ["reason"], registry=self.registry)
        self.seconds = Histogram("tandem_seconds", "From acceptance to outcome", buckets=BUCKETS, registry=self.registry)
        for code in Code:  # from the start, so that rates are known from the first image on
            self.pictures.labels(code.name, "http")

    def count(self, event: Inspected) -> None:
        """Count one outcome. Files and cameras are told apart by their folder or address, never by their names."""
        source = event.source if event.source == "http" else "camera"
        self.pictures.labels(event.verdict.name, source).inc()
        self.seconds.observe(event.latency_ms / 1e3)

    def watch(self, line: Line) -> None:
        """Tell the state of a line at each look."""
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "tandem_queue_length": ("Images that wait", lambda: line.pool.waiting),
            "tandem_queue_capacity": ("Images that may wait", lambda: line.pool.capacity),
            "tandem_heartbeat_timestamp_seconds": ("When the service was last seen to work", lambda: line.pool.beat),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, registry=self.registry).set_function(value)
        self.registry.register(_Neighbours(line))

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


class _Neighbours:
    """Whether sinks and cameras work, by name."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def collect(self) -> list[GaugeMetricFamily]:
        """As `prometheus_client` asks for it."""
        families = []
        for kind, healthy in (("sink", self.line.sinks), ("camera", self.line.cameras)):
            family = GaugeMetricFamily(f"tandem_{kind}_up", f"Whether a {kind} works", labels=[kind])
            for one in healthy:
                family.add_metric([one.name], float(one.healthy()))
            families.append(family)
        return families
