"""A drill for people and for machines: a page to show a colleague, and the files it was made from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from featurechaos.drills.checks import Outcome
from featurechaos.drills.history import History
from featurechaos.drills.page import page
from featurechaos.drills.parts import WORDS
from featurechaos.drills.script import Script
from featurechaos.drills.verdict import Verdict
from featurechaos.drills.window import Ledger

HISTORY, VERDICT = "history.jsonl", "verdict.json"


def write_report(history: History, script: Script, verdict: Verdict, directory: str | os.PathLike[str]) -> Path:
    """Write report.html and the other formats asked for, with history.jsonl and verdict.json beside it.

    A journal already in the folder, which the runner was writing to, is left as it is.

    Returns:
        The page's path.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / HISTORY).exists():
        _write(folder / HISTORY, "".join(history.lines()))
    _write(folder / VERDICT, json.dumps(verdict.as_dict(), indent=2, ensure_ascii=False) + "\n")
    if "md" in script.report.formats:
        _write(folder / "report.md", as_markdown(verdict))
    if "junit" in script.report.formats:
        _write(folder / "report.xml", as_junit(verdict))
    report = folder / "report.html"
    _write(report, page(Ledger.of(history), script, verdict))
    return report


def as_markdown(verdict: Verdict) -> str:
    """The verdict and its checks, for a pull request."""
    lines = [f"# {WORDS[verdict.outcome]}: {verdict.title}", "", verdict.sentence, ""]
    lines += ["| outcome | when | what | wanted | got |", "|---|---|---|---|---|"]
    for check in verdict.checks:
        cells = (str(check.outcome), check.phase, check.name, check.wanted, check.got)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def as_junit(verdict: Verdict) -> str:
    """The checks as test cases: a weakness is a failure, an unknown is skipped; the verdict is a case of its own."""
    cases = []
    for check in verdict.checks:
        said = quoteattr(f"wanted {check.wanted}, got {check.got}")
        inside = {Outcome.WEAKNESS: f"<failure message={said}/>", Outcome.UNKNOWN: f"<skipped message={said}/>"}
        name = quoteattr(f"{check.phase}: {check.name}")
        cases.append(
            f"<testcase classname={quoteattr(verdict.title)} name={name}>{inside.get(check.outcome, '')}</testcase>"
        )
    verdict_says = (
        ""
        if verdict.outcome is Outcome.HELD
        else f"<failure message={quoteattr(verdict.outcome)}>{escape(verdict.sentence)}</failure>"
    )
    cases.append(f'<testcase classname={quoteattr(verdict.title)} name="verdict">{verdict_says}</testcase>')
    failures = sum("<failure" in case for case in cases)
    skipped = sum("<skipped" in case for case in cases)
    head = f'<testsuite name={quoteattr(verdict.title)} tests="{len(cases)}" failures="{failures}" skipped="{skipped}">'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{"".join(cases)}</testsuite>\n'


def _write(path: Path, content: str) -> None:
    """Whole or not at all: a reader never meets half a file."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(content, encoding="utf-8")
    draft.replace(path)
