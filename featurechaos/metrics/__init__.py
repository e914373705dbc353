"""What a client counts, and how Prometheus reads it; the second part is imported when first used."""

from typing import TYPE_CHECKING, Any

from featurechaos.metrics.counters import Counters, Gauges, Seen
from featurechaos.metrics.distributions import Distribution
from featurechaos.metrics.names import NAMES, Metric

if TYPE_CHECKING:
    from featurechaos.metrics.export import Endpoint, collector, serve

__all__ = ["NAMES", "Counters", "Distribution", "Endpoint", "Gauges", "Metric", "Seen", "collector", "serve"]


if not TYPE_CHECKING:  # a checker would take any name for granted

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from featurechaos.metrics import export

        return getattr(export, name)
