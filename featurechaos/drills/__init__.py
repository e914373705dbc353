"""Drills: a script says what to do, a history what happened, a verdict what it means, a report shows it.

After Jepsen: playing a drill is the only impure part and it records one history; everything said
about a drill afterwards is a pure function of that history, and can be said again from the file.
"""

from __future__ import annotations

from featurechaos.drills.checks import Check, Outcome
from featurechaos.drills.history import History, HistoryWriter
from featurechaos.drills.reading import load_script, parse_script
from featurechaos.drills.report import write_report
from featurechaos.drills.script import Script
from featurechaos.drills.verdict import Verdict, judge

__all__ = [
    "Check",
    "History",
    "HistoryWriter",
    "Outcome",
    "Script",
    "Verdict",
    "judge",
    "load_script",
    "parse_script",
    "write_report",
]
