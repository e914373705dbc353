"""Feature reads that answer in time, and say honestly where each value came from and how old it is."""

from featurechaos.client import AsyncFeatureClient, FeatureClient
from featurechaos.errors import (
    ChaosRefused,
    Exhausted,
    FeatureError,
    PartialWrite,
    RequestError,
    SpecError,
)
from featurechaos.model import Cause, Origin, Status
from featurechaos.response import Provenance, Response
from featurechaos.stores import WriteReport
from featurechaos.version import VERSION

__version__ = VERSION

__all__ = [
    "AsyncFeatureClient",
    "Cause",
    "ChaosRefused",
    "Exhausted",
    "FeatureClient",
    "FeatureError",
    "Origin",
    "PartialWrite",
    "Provenance",
    "RequestError",
    "Response",
    "SpecError",
    "Status",
    "WriteReport",
]
