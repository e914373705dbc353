"""The report as one HTML page: no script, nothing fetched, light and dark, readable on a phone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

import numpy as np

from featurechaos.drills.checks import Outcome, place
from featurechaos.drills.history import End, Fault, GuardState, Note, Phase, Record, Sample, Start
from featurechaos.drills.measures import shown
from featurechaos.drills.plots import Plot, plots
from featurechaos.drills.script import Script
from featurechaos.drills.verdict import Verdict
from featurechaos.drills.window import Ledger, Window
from featurechaos.model import Origin

MOST_EVENTS = 200
LOOKS = {
    Outcome.HELD: ("good", "\N{CHECK MARK}"),
    Outcome.WEAKNESS: ("bad", "\N{MULTIPLICATION X}"),
    Outcome.UNKNOWN: ("doubt", "?"),
    Outcome.INCONCLUSIVE: ("doubt", "?"),
    Outcome.GUARD: ("bad", "\N{BLACK SQUARE}"),
    Outcome.INTERRUPTED: ("doubt", "\N{BLACK SQUARE}"),
    Outcome.UNDO_FAILED: ("bad", "!"),
    Outcome.INVALID: ("bad", "!"),
}
WORDS = {
    Outcome.HELD: "Held",
    Outcome.WEAKNESS: "Weakness found",
    Outcome.UNKNOWN: "unknown",
    Outcome.INCONCLUSIVE: "Inconclusive",
    Outcome.GUARD: "Stopped by a guard",
    Outcome.INTERRUPTED: "Interrupted",
    Outcome.UNDO_FAILED: "Undo failed",
    Outcome.INVALID: "Invalid",
}


def page(ledger: Ledger, script: Script, verdict: Verdict) -> str:
    """The whole page, UTF-8 text of about 100 KB."""
    start = next(iter(ledger.history.of(Start)), None)
    drawn = plots(
        ledger,
        deadline_s=start.deadline_s if start else None,
        flip_budget=start.flip_budget if start else None,
        names=script.report.plots,
    )
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    body = [
        _head(script, verdict),
        _tiles(ledger, verdict),
        *map(_plot, drawn),
        _checks(verdict),
        _phases(ledger),
        _timeline(ledger),
        _foot(start),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(WORDS[verdict.outcome])}: {escape(script.title)}</title>"
        f"<style>\n{style}</style></head>\n<body><main>\n{''.join(body)}</main></body></html>\n"
    )


def _head(script: Script, verdict: Verdict) -> str:
    said = [f'<p class="said"><strong>{escape(verdict.sentence)}</strong></p>']
    if script.description:
        said.append(f'<p class="said soft">{escape(script.description)}</p>')
    badge = _badge(verdict.outcome, WORDS[verdict.outcome])
    return f"<header>{badge}<h1>{escape(script.title)}</h1>{''.join(said)}</header>\n"


def _badge(outcome: Outcome, word: str) -> str:
    look, sign = LOOKS[outcome]
    return f'<span class="badge {look}"><span aria-hidden="true">{sign}</span> {escape(word)}</span>'


def _tiles(ledger: Ledger, verdict: Verdict) -> str:
    numbers = verdict.numbers
    before, during = ledger.phases.get("before"), ledger.phases.get("during")
    lost = f"{numbers.get('failed', 0):,} failed, {numbers.get('late', 0):,} past the deadline"
    told = [("Requests", f"{numbers.get('requests', 0):,}", lost)]
    if during and len(during.requests):
        told.append(("p99 during the fault", _p99(during), f"{_p99(before)} before it" if before else ""))
        told.append(("Served by", *_served(during)))
        told.append(("Oldest row served", _oldest(during), f"{_oldest(before)} before the fault" if before else ""))
    if numbers.get("flip_rate") is not None:
        drift = f"PSI over the fault: {shown(numbers['psi'], 'number')}" if numbers.get("psi") is not None else ""
        told.append(("Decisions changed", shown(numbers["flip_rate"], "share"), drift))
    if numbers.get("recovery_s") is not None:
        told.append(("Recovered after", shown(numbers["recovery_s"], "seconds"), "from the end of the fault, for good"))
    tiles = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd class="big">{escape(big)}</dd>'
        f'<dd class="small">{escape(small)}</dd></div>'
        for name, big, small in told
    )
    return f'<dl class="tiles">{tiles}</dl>\n'


def _served(window: Window) -> tuple[str, str]:
    rows = window.requests.origins.sum(axis=0)
    most = Origin(int(rows.argmax()))
    return most.name, f"{shown(rows[most] / max(rows.sum(), 1), 'share')} of the rows during the fault"


def _p99(window: Window | None, origin: Origin | None = None) -> str:
    return _quantile(window, 0.99, origin)


def _quantile(window: Window | None, quantile: float, origin: Origin | None = None) -> str:
    if window is None:
        return "-"
    seen = window.requests.seen_s
    if origin is not None:
        seen = seen[window.requests.main_origin == origin]
    return shown(float(np.quantile(seen, quantile, method="inverted_cdf")), "seconds") if len(seen) else "-"


def _oldest(window: Window, origin: Origin | None = None) -> str:
    ages = window.requests.max_age_s
    if origin is not None:
        ages = ages[window.requests.main_origin == origin]
    return "-" if np.isnan(ages).all() else shown(float(np.nanmax(ages)), "seconds")


def _plot(plot: Plot) -> str:
    key = "".join(f'<li><i class="{kind}"></i>{escape(name)}</li>' for kind, name in plot.key)
    return (
        f'<section id="{plot.name}"><h2>{escape(plot.title)}</h2><p class="soft">{escape(plot.says)}</p>'
        f'<ul class="key" aria-label="Key">{key}</ul>{plot.wide}{plot.narrow}</section>\n'
    )


def _table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str] | str], *, note: str = "", kind: str = "wide"
) -> str:
    """A table in its own scrolling box. Heads with a # are of numbers; cells are HTML; a text heads a group."""
    marks = [' class="number"' if head.startswith("#") else "" for head in heads]
    top = "".join(
        f'<th scope="col"{mark}>{escape(head.lstrip("#"))}</th>' for head, mark in zip(heads, marks, strict=True)
    )
    body = []
    for row in rows:
        if isinstance(row, str):
            body.append(f'<tr><th scope="rowgroup" colspan="{len(heads)}">{escape(row)}</th></tr>')
        else:
            body.append(
                "<tr>" + "".join(f"<td{mark}>{cell}</td>" for cell, mark in zip(row, marks, strict=True)) + "</tr>"
            )
    said = f'<p class="soft">{escape(note)}</p>' if note else ""
    return (
        f"<section><h2>{escape(title)}</h2>{said}"
        f'<div class="scroll" role="region" aria-label="{escape(title, quote=True)}" tabindex="0">'
        f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div></section>\n'
    )


def _checks(verdict: Verdict) -> str:
    if not verdict.checks:
        return ""
    rows: list[Sequence[str] | str] = []
    for check, last in zip(verdict.checks, (None, *verdict.checks), strict=False):
        if last is None or check.phase != last.phase:
            rows.append(place(check))
        why = f'<br><span class="soft">{escape(check.why)}</span>' if check.why not in ("", check.got) else ""
        badge = _badge(check.outcome, str(check.outcome))
        rows.append((badge, escape(check.name), escape(check.wanted), escape(check.got) + why))
    counts = {word: sum(check.outcome is word for check in verdict.checks) for word in Outcome}
    note = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return _table("What was asked", ("Outcome", "What", "Wanted", "Got"), rows, note=f"{note}.", kind="checks")


def _phases(ledger: Ledger) -> str:
    rows = [
        _phase_row(name, window, origin)
        for name, window in ledger.phases.items()
        for origin in Origin
        if window.requests.origins[:, origin].any()
    ]
    heads = ("Phase", "Origin", "#Rows", "#Share", "#Median", "#p99", "#Oldest row", "#Decisions changed")
    note = (
        "Rows are one view of one entity; NONE are those that no source asked had. "
        "Times and ages are of the requests that were mostly served by that origin."
    )
    return _table("Phase by phase", heads, rows, note=note) if rows else ""


def _phase_row(name: str, window: Window, origin: Origin) -> Sequence[str]:
    totals = window.requests.origins.sum(axis=0)
    return (
        escape(name),
        f'<span class="whole"><i class="swatch o-{origin.name}"></i>{origin.name}</span>',
        f"{int(totals[origin]):,}",
        shown(totals[origin] / totals.sum(), "share"),
        _quantile(window, 0.5, origin),
        _p99(window, origin),
        _oldest(window, origin),
        _flip_rate(window, origin),
    )


def _flip_rate(window: Window, origin: Origin) -> str:
    mine = window.pairs.origin == origin
    rows = int(window.pairs.rows[mine].sum())
    return shown(float(window.pairs.flips[mine].sum()) / rows, "share") if rows else "-"


def _timeline(ledger: Ledger) -> str:
    told = [(record.t, *line) for record in ledger.history.records if (line := _told(record))]
    told.sort(key=lambda one: one[0])
    rows = [(f"{at:.2f}", escape(what), escape(detail)) for at, what, detail in told[:MOST_EVENTS]]
    note = f"{len(told) - MOST_EVENTS:,} more are in history.jsonl." if len(told) > MOST_EVENTS else ""
    return _table("What happened", ("#Second", "What", "Detail"), rows, note=note)


def _told(record: Record) -> tuple[str, str] | None:
    """One line of the timeline; None for what is counted rather than told."""
    if isinstance(record, Phase):
        return f"{record.phase} {record.state}", ""
    if isinstance(record, Fault):
        hit = f"hit {record.count:,}" if record.count is not None else ""
        where = f"of {record.target}" if record.target else ""
        detail = ", ".join(part for part in (f"{record.fault} {where}".strip(), hit, record.detail) if part)
        return f"{record.name} {record.state.replace('_', ' ')}", detail
    if isinstance(record, GuardState):
        return (f"guard {record.guard} tripped", record.detail or f"{record.value:g}") if record.tripped else None
    if isinstance(record, Note):
        return record.event, " ".join(part for part in (record.source, record.detail) if part)
    if isinstance(record, Sample) and record.name:
        return f"{record.name}: {record.probe}", str(record.value)
    if isinstance(record, End):
        return f"the drill ends: {record.reason.replace('_', ' ')}", record.detail
    return None


def _foot(start: Start | None) -> str:
    if start is None:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in start.versions.items())
    parts = [f"Seed {start.seed}", f"began {start.began_at}" if start.began_at else "", versions]
    said = ". ".join(part for part in parts if part)
    return f"<footer><p>{escape(said)}. Judged from history.jsonl beside this page.</p></footer>\n"
