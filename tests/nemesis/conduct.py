"""Judgments of conduct: what is raised, how often it is asked again, and what is left behind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.nemesis.history import ACTOR_BITS, CANCELLED, EXHAUSTED, FAILED, RAISING, REFUSED, WRONG, History, Told
from tests.nemesis.truths import Found
from tests.nemesis.worlds import MOST_CONNECTIONS, RETRY

_BUDGET_SLACK = 2.0
"""Tokens: when an attempt ends is not seen on the wire."""
_FIRSTS = 2
"""A request asks each of two online sources at most once for the first time."""
_MOST = {"threads": 40, "files": 60 + 4 * MOST_CONNECTIONS, "tasks": 200}
_CAUGHT_IN_FORK = 2
"""A connection that was being dialled or dropped at the instant of a fork is in no pool that could close it."""


def exceptions(history: History) -> Iterator[Found]:
    """(e) Nothing is raised but what the documents name, to whom they name it; every process ends well."""
    for told in history.told:
        requests, why = told.requests, {note["id"]: note["error"] for note in told.notes if note["what"] == "raised"}
        wrong = requests["kind"] == WRONG
        bad = (requests["outcome"] == FAILED) | ((requests["outcome"] == REFUSED) & ~wrong)
        bad |= (requests["outcome"] == EXHAUSTED) & (requests["kind"] != RAISING)
        for one in requests[bad]:
            yield "e", f"{told.actor} request {one['id']:x} at {one['began']:.3f} raised {why.get(int(one['id']), '?')}"
        for one in requests[wrong & (requests["outcome"] != REFUSED) & (requests["outcome"] != CANCELLED)]:
            yield "e", f"{told.actor} request {one['id']:x} at {one['began']:.3f} was wrong, and was not refused"
        for note in told.notes:
            if note["what"] == "forked" and note["code"] != 0:
                yield "e", f"{told.actor}: forked child {note['number']} ended with {note['code']}"
    for end in history.ends:
        if end.get("code", 0) != 0:
            yield "e", f"{end['name']} ended with {end['code']}: {end.get('errors', '')}"
        for error in end.get("wrong", ()):
            yield "e", f"{end['name']}: {error}"


def retries(history: History) -> Iterator[Found]:
    """(f) No client asks again more often than its budget allows: ratio x first attempts + burst, in any stretch.

    Counted on the wire. A read whose connection was cut under it may be sent once more for nothing; a request may
    earn for each of its sources, whether or not anything was sent.
    """
    cuts = Counter((one.source, one.number) for one in history.sent if not one.is_sent)
    seen: Counter[tuple[str, int]] = Counter()
    again: defaultdict[str, list[float]] = defaultdict(list)
    actor_of = {int(told.requests["id"][0]) >> ACTOR_BITS: told for told in history.told if len(told.requests)}
    for one in sorted((one for one in history.sent if one.is_sent), key=lambda sent: sent.at):
        seen[one.source, one.number] += 1
        if seen[one.source, one.number] > 1 + cuts[one.source, one.number]:
            told = actor_of.get(one.number >> ACTOR_BITS)
            again[told.actor if told else "?"].append(one.at)
    for told in history.told:
        if worst := _overdrawn(told, again[told.actor]):
            yield "f", f"{told.actor}: {worst}"


def _overdrawn(told: Told, again: Sequence[float]) -> str:
    """Play a budget that earns all it ever could: in words, where even that one has nothing left."""
    ratio, burst = float(RETRY["budget_ratio"]), float(RETRY["budget_burst"])
    earns = [(float(at), _FIRSTS * ratio) for at in told.requests["began"]]
    tokens = burst + _BUDGET_SLACK
    for at, change in sorted([*earns, *((at, -1.0) for at in again)]):
        tokens = min(tokens + change, burst + _BUDGET_SLACK)
        if tokens < 0:
            return f"{len(again)} reads were sent again, and at {at:.3f} more than the budget ever allows"
    return ""


def leaks(history: History) -> Iterator[Found]:
    """(h) Nothing is left: threads, tasks, descriptors, children, connections; and never too many on the way."""
    for told in history.told:
        if not any(note["what"] == "left" for note in told.notes):
            yield "h", f"{told.actor} never came to its end"
        for note in told.notes:
            yield from (("h", f"{told.actor} {text}") for text in _kept(note))
    for end in history.ends:
        if end.get("open", 0):
            yield "h", f"{end['name']} still carries {end['open']} connections"


def _kept(note: Mapping[str, Any]) -> Iterator[str]:
    """What one note tells of things that should not be there."""
    if note["what"] == "left":
        for what in ("threads", "tasks", "files", "children"):
            if note.get(what):
                yield f"left {len(note[what])} {what}: {note[what][:5]}"
        if note.get("sockets", 0) > _CAUGHT_IN_FORK:
            yield f"left {note['sockets']} sockets"
    if note["what"] == "sample":
        for what, most in _MOST.items():
            if note[what] > most:
                yield f"had {note[what]} {what} at {note['at']:.3f}, more than {most}"
