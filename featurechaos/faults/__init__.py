"""Faults to inject: what breaks, in one small class each. When and for whom is said beside them, by a lease."""

from __future__ import annotations

from featurechaos.faults.delay import Delay
from featurechaos.faults.outage import Outage
from featurechaos.faults.stale import Stale

Fault = Delay | Outage | Stale

__all__ = ["Delay", "Fault", "Outage", "Stale"]
