"""The configuration: a YAML file or a mapping in, frozen and checked settings out.

Everything but the settings' own shape is imported when first used: building pydantic's models takes longer
than importing numpy, and `import featurechaos` must not wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featurechaos.config.settings import Settings, Source, ViewPolicy

if TYPE_CHECKING:
    from featurechaos.config.changes import follow, version_of
    from featurechaos.config.loading import load, schema
    from featurechaos.config.spec import Breaker, Chaos, Empty, Hedge, Impact, LastKnown, Metrics, Policy, Retry

__all__ = [
    "Breaker",
    "Chaos",
    "Empty",
    "Hedge",
    "Impact",
    "LastKnown",
    "Metrics",
    "Policy",
    "Retry",
    "Settings",
    "Source",
    "ViewPolicy",
    "follow",
    "load",
    "schema",
    "version_of",
]

_HOMES = {"follow": "changes", "load": "loading", "schema": "loading", "version_of": "changes"}


if not TYPE_CHECKING:  # a checker would take any name for granted

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'spec')}"), name)
