"""What degraded features did to the predictions: paired counters, alarms, reports."""

from featurechaos.impact.monitor import ImpactMonitor
from featurechaos.impact.report import Report

__all__ = ["ImpactMonitor", "Report"]
