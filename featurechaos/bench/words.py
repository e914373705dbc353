"""What users would feel, in sentences: one for each stretch of the bench, and one for a process that starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from featurechaos.bench.cold import Cold
from featurechaos.bench.figures import Figures, Share, Stretch
from featurechaos.drills.load import GRACE_S
from featurechaos.drills.measures import shown
from featurechaos.model import Origin

MOST_ORIGINS = 3
LEAST_TOLD = 0.0005
ORIGINS = {
    "PRIMARY": "the primary",
    "REPLICA": "a replica",
    "SNAPSHOT": "a snapshot",
    "LAST_KNOWN": "rows last seen",
    "DEFAULT": "defaults",
    "NONE": "nowhere",
}
"""Where rows came from, after "of rows came from"."""


def said(figures: Figures) -> list[tuple[str, str]]:
    """(heading, sentence) in the order things happened."""
    return [*_warm(figures), *_cold(figures)]


def broken(figures: Figures, verb: str = "was ") -> str:
    """What was broken, after "while": `primary was frozen`."""
    return " and ".join(f"{one.source} {verb}{one.state}" for one in figures.record.asked.broken)


def answered(stretch: Stretch, figures: Figures) -> str:
    """How fast, and how many were late or failed."""
    return f"{nearly_all(stretch)}, the slowest {time(stretch.spread.max_s)}; {troubles(stretch, figures)}"


def nearly_all(stretch: Stretch) -> str:
    """`99 of 100 answers within 12 ms`, or every one where there are too few to say that."""
    if stretch.spread.p99_s is None:
        return f"every answer within {time(stretch.spread.max_s)}"
    return f"99 of 100 answers within {time(stretch.spread.p99_s)}"


def past(deadline_s: float) -> str:
    """Where an answer is late: not at the deadline itself."""
    return f"more than {time(GRACE_S)} past the deadline of {time(deadline_s)}"


def troubles(stretch: Stretch, figures: Figures) -> str:
    late = (
        f"{count(stretch.late, stretch.requests) if stretch.late else 'none'} {past(figures.record.asked.deadline_s)}"
    )
    if stretch.excused:
        late += f" ({stretch.excused:,} of them while the machine was busy elsewhere)"
    return f"{late}, {'none' if not stretch.failed else count(stretch.failed, stretch.requests)} failed"


def served(stretch: Stretch, image_age_s: Mapping[str, float]) -> str:
    """Where the rows came from: `98 % of rows came from a snapshot 3 h old and 2 % were defaults`."""
    order = sorted(stretch.origins.items(), key=lambda one: -one[1].rows)
    told = [(name, share) for name, share in order if share.share >= LEAST_TOLD][:MOST_ORIGINS]
    if not told:
        return "no row came back"
    if len(told) == 1:
        return f"every row came from {_whence(*told[0], image_age_s)}{_denied(stretch)}"
    parts = [f"{shown(share.share, 'share')} from {_whence(name, share, image_age_s)}" for name, share in told]
    parts[0] = parts[0].replace(" from ", " of rows came from ", 1)
    return f"{', '.join(parts[:-1])} and {parts[-1]}{_denied(stretch)}"


def _denied(stretch: Stretch) -> str:
    """How many of the rows of an online source were none: it answers, but without its data."""
    if stretch.missing < LEAST_TOLD:
        return ""
    return f", though {shown(stretch.missing, 'share')} of all rows were said not to exist"


def time(seconds: float | None) -> str:
    """A latency or an age as a person reads it."""
    return "-" if seconds is None else shown(seconds, "seconds")


def aged(seconds: float | None) -> str:
    """An age, roughly: `3.1 h`."""
    if seconds is None:
        return "-"
    number, unit = shown(seconds, "seconds").split(" ")
    return f"{float(number):.3g} {unit}" if float(number) >= 100 else f"{float(number):.2g} {unit}"


def count(some: int, of: int) -> str:
    return f"{some:,} of {of:,} ({shown(some / max(of, 1), 'share')})"


def _whence(name: str, share: Share, image_age_s: Mapping[str, float]) -> str:
    place = ORIGINS[name]
    if name == Origin.SNAPSHOT.name and image_age_s:
        place += f" {aged(max(image_age_s.values()))} old"
    elif name in {Origin.LAST_KNOWN.name, Origin.SNAPSHOT.name} and share.oldest_s is not None:
        place += f" (up to {aged(share.oldest_s)} old)"
    return place


def _warm(figures: Figures) -> Iterator[tuple[str, str]]:
    ages = figures.record.image_age_s
    if warm := figures.phases.get("warm"):
        yield "Warm", f"{answered(warm, figures)}; {served(warm, ages)}."
        return
    before, during, after = (figures.phases[name] for name in ("before", "during", "after"))
    yield "Before", f"{answered(before, figures)}; {served(before, ages)}."
    yield f"While {broken(figures)}", f"{answered(during, figures)}; {served(during, ages)}.{_onset(figures)}"
    yield "After", f"{back(figures)}{_denied(after)}; {answered(after, figures)}."


def _onset(figures: Figures) -> str:
    """How it began, where that was another thing than the rest."""
    onset, settled = figures.onset, figures.settled
    if onset is None or settled is None:
        return ""
    first, rest = onset.spread.p90_s, settled.spread.p90_s
    if first is None or rest is None or first < 2 * rest:
        return ""
    felt = f"9 of 10 answers within {time(first)} until then, within {time(rest)} from there on"
    if figures.gave_up_s is None:
        return f" It was felt most in the first second: {felt}."
    source = " and ".join(one.source for one in figures.record.asked.broken)
    return f" The client stopped waiting for {source} after {time(figures.gave_up_s)}: {felt}."


def back(figures: Figures) -> str:
    recovery = figures.recovery
    if recovery is None:
        return "there was nothing to come back to"
    place = ORIGINS[figures.first_origin.name] if figures.first_origin else "it"
    if recovery.after_s is None:
        waited = time(figures.phases["after"].end_s - figures.phases["after"].begin_s)
        return f"{place} did not serve again within {waited}"
    if not recovery.lost_s:
        return f"{place} served on at once"
    return f"{place} served again {time(recovery.after_s)} after the end of it"


def _cold(figures: Figures) -> Iterator[tuple[str, str]]:
    heads = {"before": "A new process", "during": f"A new process while {broken(figures)}"}
    for name, head in heads.items():
        if cold := figures.record.cold.get(name):
            yield head, f"{started(cold)}."


def started(cold: Cold) -> str:
    """How a process fared that had just started, with no local copy of anything."""
    if cold.why:
        return f"could not be measured: {cold.why}"
    if cold.good_s is None:
        names = ", ".join(ORIGINS[name] for name in cold.first_origins)
        return f"answers from {time(cold.first_s)} on, but no good one within {time(cold.looked_s)}: rows from {names}"
    most = max(cold.good_origins, key=lambda name: cold.good_origins[name])
    told = f"first good answer {time(cold.good_s)} after it was started, from {ORIGINS[most]}"
    if cold.first_s is not None and cold.good_s > cold.first_s:
        poor = max(cold.first_origins, key=lambda name: cold.first_origins[name])
        values = "without values" if poor == Origin.NONE.name else f"with rows from {ORIGINS[poor]}"
        told += f"; before that, from {time(cold.first_s)} on, it answered {values}"
    if cold.has_local:
        whole = f"after {time(cold.whole_s)}" if cold.whole_s is not None else f"not within {time(cold.looked_s)}"
        told += f"; local copies whole {whole}"
    return told
