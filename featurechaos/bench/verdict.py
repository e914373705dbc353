"""Whether users were served in time and with real values: a pure function of a bench's figures.

    undo_failed 5    something may still be broken: nothing matters more
    interrupted 4    somebody or something ended it early
    weakness    1    answers failed or came late, rows were without a stored value, or it did not come back
    inconclusive 6   too little was asked, nothing was broken, it was not well before, or the machine was too busy
    held        0    none of these

One answer in 1,000 may be late: past the deadline + 10 ms, and not while the machine was busy elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from featurechaos.bench import words
from featurechaos.bench.figures import Figures, Stretch
from featurechaos.drills.checks import Outcome
from featurechaos.drills.history import End, Fault
from featurechaos.drills.measures import shown
from featurechaos.drills.verdict import EXIT_CODES, MOST_UNASKED, WORST_FIRST

LEAST_REQUESTS = 100
"""In a phase: fewer hold no p99."""
MOST_LATE = 0.001
MOST_WAITED = 0.01
"""With more asked late in good health, it is the load that is measured and not the stores."""
MOST_BUSY = 0.02
"""A machine that is busy elsewhere for more of the time says nothing about as large a share of late answers."""

LEAST_BACK = 0.1
"""Of the rows of the last phase: a source that serves so many is back."""

Found = tuple[Outcome, str]


@dataclass(frozen=True)
class Verdict:
    """What a bench came to, in one sentence; `said` are the sentences on each stretch."""

    outcome: Outcome
    sentence: str
    said: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    def as_dict(self) -> dict[str, Any]:
        return {
            "outcome": str(self.outcome),
            "exit_code": self.exit_code,
            "sentence": self.sentence,
            "said": [f"{head}: {text}" for head, text in self.said],
        }


def judge(figures: Figures) -> Verdict:
    """The verdict, by the worst of what is so."""
    found = [*_ends(figures), *_doubts(figures)]
    # What was unwell to begin with proves nothing about the fault.
    if not any(_unwell(figures)):
        found += _weaknesses(figures)
    outcome, sentence = min(found, key=lambda one: WORST_FIRST.index(one[0]), default=(Outcome.HELD, _held(figures)))
    return Verdict(outcome, sentence if sentence.endswith((".", "?")) else f"{sentence}.", tuple(words.said(figures)))


def _ends(figures: Figures) -> Iterator[Found]:
    history = figures.record.history
    for fault in history.of(Fault):
        if fault.state == "undo_failed":
            yield Outcome.UNDO_FAILED, f"{fault.name} could not be undone and may still be so: {fault.detail}"
    end = next(iter(history.of(End)), None)
    if end is None or end.reason in ("interrupted", "error"):
        why = (end and end.detail) or "it did not get to its end"
        yield Outcome.INTERRUPTED, f"The bench was ended early: {why}"


def _unwell(figures: Figures) -> Iterator[Found]:
    """Why the rows seen before anything was broken say nothing about those seen during it."""
    healthy, asked = figures.healthy, figures.record.asked
    if asked.broken and figures.first_origin is None:
        served = words.served(healthy, figures.record.image_age_s)
        yield Outcome.INCONCLUSIVE, f"No online source served before anything was broken: {served}"
    elif healthy.lost > 0.5:
        empty = f"{shown(healthy.lost, 'share')} of rows had no stored value with nothing broken"
        yield Outcome.INCONCLUSIVE, f"{empty}: are the entities those of this store?"


def _overloaded(figures: Figures) -> Iterator[Found]:
    """Why it was not the stores whose time was measured, but the asking."""
    healthy, asked = figures.healthy, figures.record.asked
    if _is_noisy(figures):
        return
    if healthy.waited > MOST_WAITED * healthy.requests:
        share = shown(healthy.waited / healthy.requests, "share")
        load = f"{asked.rate_per_s:g} requests a second for {asked.batch} entities each"
        msg = (
            f"One process could not ask {load}: {share} of them were late with nothing broken; lower --rate or --batch"
        )
        yield Outcome.INCONCLUSIVE, msg
    if _has_unasked(figures):
        yield Outcome.INCONCLUSIVE, f"{figures.unasked:,} requests were due and never asked; lower --rate or --batch"


def _doubts(figures: Figures) -> Iterator[Found]:
    """Why a bench in which nothing went wrong can still not be called held."""
    yield from _unwell(figures)
    yield from _unbroken(figures)
    yield from _overloaded(figures)
    are_slow = any(max(one.late, one.waited) > _may_be_late(one) for one in figures.phases.values())
    if _is_noisy(figures) and (are_slow or _has_unasked(figures) or _is_gone(figures)):
        share = shown(figures.busy_share, "share")
        yield Outcome.INCONCLUSIVE, f"The machine was busy elsewhere for {share} of the time: too busy to tell"
    for name, stretch in figures.phases.items():
        if stretch.requests < LEAST_REQUESTS:
            yield (
                Outcome.INCONCLUSIVE,
                f"Only {stretch.requests} requests {name}: wanted {LEAST_REQUESTS}; raise --rate or --for-s",
            )
    recovery = figures.recovery
    if recovery is not None and recovery.is_unknown:
        yield Outcome.INCONCLUSIVE, f"Whether it came back was not seen: {recovery.why}"


def _is_noisy(figures: Figures) -> bool:
    return figures.busy_share > MOST_BUSY


def _has_unasked(figures: Figures) -> bool:
    return figures.unasked > MOST_UNASKED * (figures.unasked + len(figures.ledger.whole.requests))


def _unbroken(figures: Figures) -> Iterator[Found]:
    """Faults that were to be, and were not."""
    for fault in figures.record.history.of(Fault):
        if fault.state in ("failed", "not_applied"):
            yield Outcome.INCONCLUSIVE, f"{fault.name} did not come about: {fault.detail}"
    during = figures.phases.get("during")
    if figures.record.asked.broken and during is None:
        yield Outcome.INCONCLUSIVE, "Nothing was broken"
    if during is None:
        return
    for one in figures.record.asked.broken:
        before = figures.healthy.origins.get(one.origin)
        if not one.fault.startswith("process_") or before is None or figures.first_origin is None:
            continue
        # A killed server may be back at once; a frozen one cannot have answered.
        most = before.share if one.fault == "process_kill" else before.share / 2
        now = during.origins[one.origin].share if one.origin in during.origins else 0.0
        if one.origin == figures.first_origin.name and now >= most:
            share = shown(now, "share")
            yield (
                Outcome.INCONCLUSIVE,
                f"Source {one.source!r} went on serving {share} of rows: is that its server? ({one.detail})",
            )


def _weaknesses(figures: Figures) -> Iterator[Found]:
    deadline_s = figures.record.asked.deadline_s
    is_overloaded = any(_overloaded(figures))
    for name, stretch in figures.phases.items():
        when = _when(name, figures)
        if stretch.failed:
            yield Outcome.WEAKNESS, f"{when}, {words.count(stretch.failed, stretch.requests)} requests failed"
        may_be_late = max(_may_be_late(stretch), _may_be_noise(stretch, figures))
        if stretch.told_late > may_be_late and not is_overloaded:
            late, slowest = words.count(stretch.told_late, stretch.requests), words.time(stretch.spread.max_s)
            told = f"{late} answers came {words.past(deadline_s)}, the slowest after {slowest}"
            yield Outcome.WEAKNESS, f"{when}, {told}"
    asked = figures.record.asked
    if figures.lost > asked.may_lose:
        lost, may = shown(figures.lost, "share"), shown(asked.may_lose, "share")
        yield (
            Outcome.WEAKNESS,
            f"{_when('during', figures)}, {lost} of rows were without a stored value (--may-lose {may})",
        )
    ours = any(one.fault != "process_kill" for one in asked.broken)
    if _is_gone(figures) and ours and not (_is_noisy(figures) and _serves_at_all(figures)):
        yield Outcome.WEAKNESS, f"After the end of it, {words.back(figures)}"


def _is_gone(figures: Figures) -> bool:
    """Whether the first origin was seen not to come back for good."""
    recovery = figures.recovery
    return recovery is not None and recovery.after_s is None and not recovery.is_unknown


def _serves_at_all(figures: Figures) -> bool:
    """Whether the first origin is back, though not for good: reads that a busy machine made too late miss it."""
    origin, after = figures.first_origin, figures.phases.get("after")
    share = after.origins.get(origin.name) if origin and after else None
    return share is not None and share.share > LEAST_BACK


def _may_be_late(stretch: Stretch) -> int:
    return max(1, int(MOST_LATE * stretch.requests))


def _may_be_noise(stretch: Stretch, figures: Figures) -> float:
    """How many late answers a busy machine could be to blame for, beyond those it is seen to be."""
    return figures.busy_share * stretch.requests if _is_noisy(figures) else 0.0


def _when(name: str, figures: Figures) -> str:
    whens = {"before": "Before anything was broken", "during": f"While {words.broken(figures)}", "after": "Afterwards"}
    return whens.get(name, "With nothing broken")


def _held(figures: Figures) -> str:
    stretch = figures.phases.get("during") or figures.healthy
    deadline = words.time(figures.record.asked.deadline_s)
    when = f"While {words.broken(figures)}" if figures.record.asked.broken else "With nothing broken"
    served = words.served(stretch, figures.record.image_age_s)
    return f"{when}, users got {words.nearly_all(stretch)} (deadline {deadline}); {served}."
