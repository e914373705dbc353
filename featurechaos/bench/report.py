"""A bench in a folder: a page to look at, the numbers for a script, and the journal both were made from."""

from __future__ import annotations

import json
from pathlib import Path

from featurechaos.bench.figures import Figures
from featurechaos.bench.verdict import Verdict

JOURNAL, NUMBERS, PAGE = "history.jsonl", "bench.json", "report.html"


def clear(folder: Path) -> None:
    """Remove the report of an earlier bench."""
    for name in (JOURNAL, NUMBERS, PAGE):
        (folder / name).unlink(missing_ok=True)


def write_report(figures: Figures, verdict: Verdict, folder: Path) -> Path:
    """Write `report.html` and `bench.json` beside the journal; returns the page's path."""
    from featurechaos.bench.page import page

    numbers = {**verdict.as_dict(), **figures.as_dict(), "versions": dict(figures.record.versions)}
    _write(folder / NUMBERS, json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _write(folder / PAGE, page(figures, verdict))
    return folder / PAGE


def _write(path: Path, content: str) -> None:
    """Whole or not at all: a reader never meets half a file."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(content, encoding="utf-8")
    draft.replace(path)
