"""What a client tells of itself: notes and answers turned into counters, and the state of its parts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featurechaos.config import Settings
from featurechaos.response import Response

if TYPE_CHECKING:
    from featurechaos.serving import Serving

log = logging.getLogger("featurechaos")


class Observer:
    """Hears attempts, notes and answers; counts each once; logs state changes, never requests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._serving: Serving | None = None
        self._snapshots: Mapping[str, Any] = {}

    def watch(self, serving: Serving, snapshots: Mapping[str, Any]) -> None:
        """Take gauges from these."""
        self._serving, self._snapshots = serving, snapshots

    def attempt(self, source: str, outcome: str, seconds: float) -> None:
        """One attempt at a source ended."""

    def note(self, name: str, about: str, fields: Mapping[str, Any]) -> None:
        """One thing happened on the way."""

    def answered(self, response: Response) -> None:
        """One request was answered."""

    def serve(self) -> None:
        """Start the metrics endpoint if the config wants one."""

    def stats(self) -> dict[str, Any]:
        """Everything counted so far."""
        return {}

    def close(self) -> None:
        """Stop the endpoint."""
