"""Whether a run saw enough for its silence to mean something, and the numbers it is told by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from featurechaos import Cause, Origin, Status
from tests.nemesis.history import CANCELLED, History, Struck, Told
from tests.nemesis.schedule import FAULTS
from tests.nemesis.stored import KINDS, MARKER, SCORE

LONG_S = 1200.0
LONG_ROWS, LONG_FAULTS, LONG_EACH = 1_000_000, 200, 5
LEAST_OF_ORIGIN = 0.01
_SERVING = (Origin.PRIMARY, Origin.REPLICA, Origin.SNAPSHOT, Origin.LAST_KNOWN, Origin.DEFAULT)
_SAMPLED = ("threads", "files", "tasks")


def faults(history: History) -> Counter[str]:
    """How often each fault occurred, that is, took effect on somebody."""
    found: Counter[str] = Counter()
    for strike in history.strikes:
        if strike.applied and _was_felt(strike, history):
            found[strike.fault] += 1
    return found


def _was_felt(strike: Struck, history: History) -> bool:
    """Whether anyone read while it lasted; and of some faults, what only those they hit can tell."""
    if strike.fault == "schema":
        return foreign(history, strike.began, strike.healed) > 0
    return any(
        bool(np.any(_hit(strike, told) & between(told.requests["began"], strike.began, strike.healed)))
        for told in history.told
    )


def _hit(strike: Struck, told: Told) -> Any:
    """The requests of an actor that can tell of a fault."""
    if strike.fault == "cancel":
        return told.requests["outcome"] == CANCELLED
    return told.is_child if strike.fault == "fork" else np.True_


def between(times: Any, began: float, ended: float) -> Any:
    return (times >= began) & (times <= ended)


def uncovered(history: History, occurred: Mapping[str, int], recoveries: int) -> Iterator[str]:
    """Why the run says too little; nothing if it says enough."""
    yield from (f"could not be played: {text}" for text in history.unplayed)
    is_long = history.seconds >= LONG_S
    least = LONG_EACH if is_long else 1
    for fault in FAULTS:
        if occurred.get(fault, 0) < least:
            yield f"{fault} occurred {occurred.get(fault, 0)} times, wanted {least}"
    for origin, share in origins(history).items():
        if share < LEAST_OF_ORIGIN:
            yield f"{origin.name} served {share:.2%} of rows, wanted {LEAST_OF_ORIGIN:.0%}"
    if not any(one.is_sent for one in history.sent):
        yield "no read was seen on the wire"
    if not recoveries:
        yield "no recovery could be looked at"
    rows, faults = sum(len(told.rows) for told in history.told), sum(occurred.values())
    if is_long and rows < LONG_ROWS:
        yield f"{rows} rows, wanted {LONG_ROWS}"
    if is_long and faults < LONG_FAULTS:
        yield f"{faults} faults, wanted {LONG_FAULTS}"


def origins(history: History) -> dict[Origin, float]:
    """The share of rows each origin served, of those that anything could serve."""
    counts = np.zeros(256, np.int64)
    for told in history.told:
        counts += np.bincount(told.rows["origin"][told.rows["view"] != MARKER], minlength=256)
    return {origin: float(counts[origin] / max(1, counts.sum())) for origin in _SERVING}


def foreign(history: History, began: float, ended: float) -> int:
    """How many rows of another generation's schema were read in a time."""
    score = history.writes[history.writes["view"] == SCORE]
    generation_of = dict(zip(score["event_time"].tolist(), score["generation"].tolist(), strict=True))
    found = 0
    for told in history.told:
        mine = (told.rows["view"] == SCORE) & between(told.requests["began"][told.of_row], began, ended)
        times = told.rows["event_time"][mine].tolist()
        found += sum(generation_of.get(at, told.generation) != told.generation for at in times)
    return found


def numbers(history: History, occurred: Mapping[str, int]) -> Iterator[str]:
    """What was measured, for whoever reads the run."""
    yield "faults: " + ", ".join(f"{fault} {occurred.get(fault, 0)}" for fault in FAULTS)
    yield "origins: " + ", ".join(f"{origin.name} {share:.1%}" for origin, share in origins(history).items())
    kinds: tuple[tuple[str, type[IntEnum]], ...] = (("status", Status), ("cause", Cause))
    for fact, words in kinds:
        counts: Counter[int] = Counter()
        for told in history.told:
            values, many = np.unique(told.rows[fact][told.rows["view"] != MARKER], return_counts=True)
            counts.update(dict(zip(values.tolist(), many.tolist(), strict=True)))
        yield f"{fact}: " + ", ".join(f"{words(one).name} {count}" for one, count in sorted(counts.items()))
    for told in history.told:
        if not told.is_child and len(told.requests):
            took = 1000 * (told.requests["ended"] - told.requests["began"])
            p50, p99 = np.quantile(took, (0.5, 0.99))
            cancelled = int((told.requests["outcome"] == CANCELLED).sum())
            samples = [note for note in told.notes if note["what"] == "sample"]
            peaks = {what: max((note[what] for note in samples), default=0) for what in _SAMPLED}
            what = "requests, hedging" if told.hedges else "requests"
            yield (
                f"{told.actor}: {len(took)} {what}, {cancelled} cancelled; p50 {p50:.1f}, p99 {p99:.1f}, most "
                f"{took.max():.1f} ms; at most " + ", ".join(f"{peak} {what}" for what, peak in peaks.items())
            )
    sent = Counter((one.source, one.number) for one in history.sent if one.is_sent)
    for source in sorted({source for source, _ in sent}):
        mine = [count for (of, _), count in sent.items() if of == source]
        yield f"wire to {source}: {len(mine)} reads, {sum(mine) - len(mine)} sent again"
    stalls = sum(len(spans) for cores in history.stalls.values() for spans in cores.values())
    yield f"written: {len(history.writes)} rows of {len(KINDS) - 1} views; {stalls} stalls of the machine seen"
    yield f"cores: somebody waited for one in {history.queued_share:.0%} of the time"
