"""The report as one HTML page: no script, nothing fetched, light and dark, readable on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from featurechaos.drills import parts
from featurechaos.drills.checks import Outcome, place
from featurechaos.drills.history import End, Fault, GuardState, Note, Phase, Record, Sample, Start
from featurechaos.drills.measures import shown
from featurechaos.drills.plots import plots
from featurechaos.drills.script import Script
from featurechaos.drills.verdict import Verdict
from featurechaos.drills.window import Ledger, Window
from featurechaos.model import Origin

MOST_EVENTS = 200


def page(ledger: Ledger, script: Script, verdict: Verdict) -> str:
    """The whole page, UTF-8 text of about 100 KB."""
    start = next(iter(ledger.history.of(Start)), None)
    drawn = plots(
        ledger,
        deadline_s=start.deadline_s if start else None,
        flip_budget=start.flip_budget if start else None,
        names=script.report.plots,
    )
    body = [
        _head(script, verdict),
        _tiles(ledger, verdict),
        *map(parts.section, drawn),
        _checks(verdict),
        _phases(ledger),
        _timeline(ledger),
        _foot(start),
    ]
    return parts.whole(f"{parts.WORDS[verdict.outcome]}: {script.title}", body)


def _head(script: Script, verdict: Verdict) -> str:
    said = [f'<p class="said"><strong>{escape(verdict.sentence)}</strong></p>']
    if script.description:
        said.append(f'<p class="said soft">{escape(script.description)}</p>')
    badge = parts.badge(verdict.outcome)
    return f"<header>{badge}<h1>{escape(script.title)}</h1>{''.join(said)}</header>\n"


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
    return parts.tiles(told)


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


def _checks(verdict: Verdict) -> str:
    if not verdict.checks:
        return ""
    rows: list[Sequence[str] | str] = []
    for check, last in zip(verdict.checks, (None, *verdict.checks), strict=False):
        if last is None or check.phase != last.phase:
            rows.append(place(check))
        why = f'<br><span class="soft">{escape(check.why)}</span>' if check.why not in ("", check.got) else ""
        badge = parts.badge(check.outcome, str(check.outcome))
        rows.append((badge, escape(check.name), escape(check.wanted), escape(check.got) + why))
    counts = {word: sum(check.outcome is word for check in verdict.checks) for word in Outcome}
    note = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return parts.table("What was asked", ("Outcome", "What", "Wanted", "Got"), rows, note=f"{note}.", kind="checks")


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
    return parts.table("Phase by phase", heads, rows, note=note) if rows else ""


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
    return parts.table("What happened", ("#Second", "What", "Detail"), rows, note=note)


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
    pieces = [f"Seed {start.seed}", f"began {start.began_at}" if start.began_at else "", versions]
    said = ". ".join(piece for piece in pieces if piece)
    return f"<footer><p>{escape(said)}. Judged from history.jsonl beside this page.</p></footer>\n"
