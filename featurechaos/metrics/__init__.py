"""What a client counts, and how Prometheus reads it."""

from featurechaos.metrics.counters import Counters, Gauges, Seen
from featurechaos.metrics.export import Endpoint, collector, serve
from featurechaos.metrics.names import NAMES, Metric

__all__ = ["NAMES", "Counters", "Endpoint", "Gauges", "Metric", "Seen", "collector", "serve"]
