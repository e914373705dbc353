"""The configuration: a YAML file or a mapping in, frozen and checked settings out."""

from featurechaos.config.load import load, schema
from featurechaos.config.settings import Settings, Source, ViewPolicy
from featurechaos.config.spec import Breaker, Chaos, Empty, Impact, LastKnown, Metrics, Policy, Retry

__all__ = [
    "Breaker",
    "Chaos",
    "Empty",
    "Impact",
    "LastKnown",
    "Metrics",
    "Policy",
    "Retry",
    "Settings",
    "Source",
    "ViewPolicy",
    "load",
    "schema",
]
