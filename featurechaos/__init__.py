"""Feature reads that answer in time, and say honestly where each value came from and how old it is.

Names are imported when they are first used, so that a command line or a test that needs one of them does not wait for
all: `import featurechaos` alone reads nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featurechaos.version import VERSION

if TYPE_CHECKING:
    from featurechaos.aclient import AsyncFeatureClient
    from featurechaos.client import FeatureClient
    from featurechaos.errors import ChaosRefused, Exhausted, FeatureError, PartialWrite, RequestError, SpecError
    from featurechaos.model import Cause, Origin, Status
    from featurechaos.response import Provenance, Response
    from featurechaos.stores import WriteReport

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

_HOMES = {
    "AsyncFeatureClient": "aclient",
    "FeatureClient": "client",
    **dict.fromkeys(
        ("ChaosRefused", "Exhausted", "FeatureError", "PartialWrite", "RequestError", "SpecError"), "errors"
    ),
    **dict.fromkeys(("Cause", "Origin", "Status"), "model"),
    **dict.fromkeys(("Provenance", "Response"), "response"),
    "WriteReport": "stores",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
