"""A bench as one HTML page: no script, nothing fetched, light and dark, readable on a phone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from featurechaos.bench import words
from featurechaos.bench.cold import Cold
from featurechaos.bench.figures import Figures, Spread, Stretch
from featurechaos.bench.plots import plots
from featurechaos.bench.verdict import Verdict
from featurechaos.drills import parts
from featurechaos.drills.checks import Outcome
from featurechaos.drills.load import GRACE_S
from featurechaos.drills.measures import shown

_HEADS = ("Origin", "#Rows", "#Share", "#p50", "#p90", "#p99", "#p99.9", "#Max", "#Late", "#Oldest row")
_COLD = ("Started", "#First answer", "Rows from", "#First good answer", "Rows from", "#Local copies whole")


def page(figures: Figures, verdict: Verdict) -> str:
    """The whole page, UTF-8 text of about 100 KB."""
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    body = [
        _head(figures, verdict),
        parts.tiles(_tiles(figures)),
        *(parts.section(plot) for plot in plots(figures)),
        _feel(verdict),
        _phases(figures),
        _cold(figures),
        _foot(figures),
    ]
    return parts.whole(f"{parts.WORDS[verdict.outcome]}: {title(figures)}", body, style=style)


def title(figures: Figures) -> str:
    """What was looked at."""
    return f"What users feel while {words.broken(figures, 'is ')}" if figures.record.asked.broken else "What users feel"


def _head(figures: Figures, verdict: Verdict) -> str:
    said = f'<p class="said"><strong>{parts.prose(_sentence(verdict.sentence))}</strong></p>'
    if verdict.outcome is not Outcome.HELD:
        served = words.served(figures.phases.get("during") or figures.healthy, figures.record.image_age_s)
        said += f'<p class="said soft">{parts.prose(_sentence(served))}.</p>'
    return f"<header>{parts.badge(verdict.outcome)}<h1>{escape(title(figures))}</h1>{said}</header>\n"


def _tiles(figures: Figures) -> Iterator[tuple[str, str, str]]:
    asked, healthy, during = figures.record.asked, figures.healthy, figures.phases.get("during")
    stretch = during or healthy
    when = "while it was broken" if during else "with nothing broken"
    usual = f"{words.time(_rare(healthy))} before, deadline {words.time(asked.deadline_s)}"
    yield (
        "99 of 100 answers within",
        words.time(_rare(stretch)),
        usual if during else f"deadline {words.time(asked.deadline_s)}",
    )
    most = words.time(asked.deadline_s + GRACE_S)
    in_time = 1 - (stretch.late + stretch.failed) / max(stretch.requests, 1)
    yield (
        "Answered in time",
        shown(max(in_time, 0.0), "share"),
        f"{when}: {stretch.late:,} later than {most}, {stretch.failed:,} failed of {stretch.requests:,}",
    )
    if during:
        yield "Rows with a stored value", shown(1 - during.lost, "share"), f"{shown(1 - healthy.lost, 'share')} before"
    if figures.recovery is not None:
        back = figures.recovery.after_s
        place = figures.first_origin.name if figures.first_origin else "it"
        big = "not seen" if back is None else "at once" if not figures.recovery.lost_s else words.time(back)
        after = figures.phases["after"]
        seen = f"within {words.time(after.end_s - after.begin_s)} of" if back is None else "from"
        yield f"{place} serves again", big, f"{seen} the end of the fault, for good"
    if cold := figures.record.cold.get("during") or figures.record.cold.get("before"):
        is_during = "during" in figures.record.cold
        yield "A new process", words.time(cold.good_s), f"to its first good answer{', while it is broken' * is_during}"


def _rare(stretch: Stretch) -> float | None:
    return stretch.spread.p99_s if stretch.spread.p99_s is not None else stretch.spread.max_s


def _feel(verdict: Verdict) -> str:
    told = "".join(f"<dt>{escape(head)}</dt><dd>{parts.prose(_sentence(text))}</dd>" for head, text in verdict.said)
    return f'<section><h2>What users feel</h2><dl class="feel">{told}</dl></section>\n'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _phases(figures: Figures) -> str:
    rows = [row for name, stretch in figures.phases.items() for row in _phase(name, stretch)]
    note = (
        "Latency is what the caller saw, from when a request was due to its last value. Late: past the deadline "
        "+ 10 ms. Rows are one view of one entity; the times of an origin are of the requests it served most of."
    )
    return parts.table("Phase by phase", _HEADS, rows, note=note)


def _phase(name: str, stretch: Stretch) -> Iterator[Sequence[str] | str]:
    yield f"{name}: {stretch.requests:,} requests in {words.time(stretch.end_s - stretch.begin_s)}"
    late = f"{stretch.late:,}" + (f" ({stretch.excused:,} excused)" if stretch.excused else "")
    yield ("all", f"{stretch.rows:,}", "100 %", *_times(stretch.spread), late, "")
    for origin, share in stretch.origins.items():
        swatch = f'<span class="whole"><i class="swatch o-{origin}"></i>{origin}</span>'
        oldest = words.aged(share.oldest_s)
        yield (swatch, f"{share.rows:,}", shown(share.share, "share"), *_times(share.spread), "", oldest)


def _times(spread: Spread) -> list[str]:
    return [words.time(one) for one in (spread.p50_s, spread.p90_s, spread.p99_s, spread.p999_s, spread.max_s)]


def _cold(figures: Figures) -> str:
    names = {"before": "with nothing broken", "during": f"while {words.broken(figures)}"}
    rows = [_started(names[name], cold) for name, cold in figures.record.cold.items()]
    note = (
        "A process started for this, with an empty cache; times count from its start, Python and imports included. "
        "A good answer has a stored value in nearly every row."
    )
    return parts.table("Cold: a process that has just started", _COLD, rows, note=note) if rows else ""


def _started(name: str, cold: Cold) -> Sequence[str]:
    if cold.why:
        return (escape(name), "-", escape(cold.why), "-", "-", "-")
    good = words.time(cold.good_s) if cold.good_s is not None else f"not within {words.time(cold.looked_s)}"
    whole = words.time(cold.whole_s) if cold.has_local else "there are none"
    if cold.has_local and cold.whole_s is None:
        whole = f"not within {words.time(cold.looked_s)}"
    return (
        escape(name),
        words.time(cold.first_s),
        ", ".join(cold.first_origins) or "-",
        good,
        ", ".join(cold.good_origins) or "-",
        whole,
    )


def _foot(figures: Figures) -> str:
    asked = figures.record.asked
    features = asked.features[0] if len(asked.features) == 1 else f"{len(asked.features)} features"
    load = f"{asked.rate_per_s:g} requests a second at random moments (open loop), {asked.batch} entities each"
    told = [
        f"{load}, {features}",
        f"Entities: {asked.entities}",
        *(f"{one.source} {one.state}: {one.detail}" for one in asked.broken),
        f"The machine was busy elsewhere for {shown(figures.busy_share, 'share')} of the time",
        f"Seed {asked.seed}",
        ", ".join(f"{name} {version}" for name, version in figures.record.versions.items()),
    ]
    said = ". ".join(piece for piece in told if piece)
    made = "Made from history.jsonl beside this page; the numbers are in bench.json."
    return f"<footer><p>{escape(said)}. {made}</p></footer>\n"
