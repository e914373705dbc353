"""A bench as a few lines of a terminal: a column for each slice of time, its latency above, its origin below."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from rich.text import Text

from featurechaos.bench.figures import Figures
from featurechaos.bench.words import broken, past
from featurechaos.cli.output import stdout
from featurechaos.drills.load import GRACE_S

_BLOCKS = "\N{LOWER ONE EIGHTH BLOCK}\u2582\u2583\u2584\u2585\u2586\u2587"
_PAST = "\N{FULL BLOCK}"
_STYLES = {
    "PRIMARY": "blue",
    "REPLICA": "cyan",
    "SNAPSHOT": "yellow",
    "LAST_KNOWN": "green",
    "DEFAULT": "red",
    "NONE": "bright_black",
}


def put_strip(figures: Figures) -> None:
    """Print it, where the terminal's encoding has the signs for it."""
    slices = [one for one in figures.as_dict()["timeline"] if one["requests"]]
    if not slices or not (sys.stdout.encoding or "").lower().startswith("utf"):
        return
    console = stdout()
    for line in strip(slices, figures):
        console.print(line, soft_wrap=True)


def strip(slices: list[Mapping[str, Any]], figures: Figures) -> Iterator[Text]:
    """The lines: phases, latency, origins, and what the signs mean."""
    during = figures.phases.get("during")
    names = [_phase(one, during.begin_s, during.end_s) if during else "warm" for one in slices]
    yield _heads(names, broken(figures, ""))
    deadline_s = figures.record.asked.deadline_s
    low = min(one["p50_s"] or one["max_s"] for one in slices)
    yield Text("latency ").append_text(Text("").join(_bar(one, low, deadline_s) for one in slices))
    mains = [max(one["rows"], key=one["rows"].get, default="NONE") for one in slices]
    yield Text("origin  ").append_text(Text("").join(Text(name[0], style=_STYLES[name]) for name in mains))
    met = ", ".join(f"{name[0]} {name}" for name in _STYLES if name in mains)
    late = f"{_PAST} one came {past(deadline_s)}"
    yield Text(f"        9 of 10 answers within, on a log scale; {late}; {met}", style="dim")


def _phase(one: Mapping[str, Any], begin_s: float, end_s: float) -> str:
    middle = (one["begin_s"] + one["end_s"]) / 2
    return "before" if middle < begin_s else "during" if middle < end_s else "after"


def _heads(names: list[str], broken_name: str) -> Text:
    """Each phase's name at its first column: `during` where what was broken is too long for its room."""
    line = Text("        ")
    for name, group in groupby(names):
        room = len(list(group))
        word = broken_name if name == "during" and len(broken_name) < room else name
        line.append(word[: max(room - 1, 0)].ljust(room), style="bold red" if name == "during" else "bold")
    return line


def _bar(one: Mapping[str, Any], low: float, deadline_s: float) -> Text:
    if one["max_s"] > deadline_s + GRACE_S:
        return Text(_PAST, style="red")
    seconds = min(one["p90_s"] or one["max_s"], deadline_s)
    part = math.log(max(seconds, low) / low) / max(math.log(deadline_s / low), 1e-9) if low < deadline_s else 0.0
    return Text(_BLOCKS[min(int(part * len(_BLOCKS)), len(_BLOCKS) - 1)])
