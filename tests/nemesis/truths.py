"""Judgments of single rows: was that truly written, is it within the limits, is what is said of it true?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos import Cause, Origin, Status
from featurechaos.model import NO_TIME_US
from tests.nemesis.history import ANSWERED, EVERY, EXHAUSTED, RAISING, History, Struck, Table, Told
from tests.nemesis.ledger import NOWHERE, Held, Ledger, Written
from tests.nemesis.stored import (
    BASE,
    KINDS,
    MARKER,
    MORTAL,
    PRIMARY,
    REPLICA,
    SCORE,
    SLOW,
    default_digest,
    null_digest,
    wanted,
)

Flags = NDArray[np.bool_]
Found = tuple[str, str]
"""What kind of promise was broken, and how, in words."""

SLACK_S = 0.002
SETTLED_S = 0.05
"""An answer under way when a fault struck may still be the store's."""
LINGERS_S = 1.0
"""So long after a fault a row may still say what it did: a connection was refused, a reply damaged."""
FORGOTTEN_S = 12.0
"""A store that lost its rows has lost the layouts too; one that was asked for in vain is asked for again after 10 s."""
DOUBTED_S = 30.0
"""And it is doubted for the 10 s of `policy.empty`, and longer where other faults keep it from being asked."""
_SILENCES = ("kill", "freeze", "pause", "trickle", "reset", "empty")
_DAMAGES = ("wrong_bytes", "truncate")
_LOSSES = ("empty", "evict")
_SHOWN = 50


@dataclass(frozen=True)
class Rows:
    """The rows of one actor, each beside what is known of its request."""

    actor: str
    generation: int
    rows: Table
    request: Table
    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    oldest_s: NDArray[np.float64]
    """The least that the age of each can be by the reader's own clock, and then the most."""
    newest_s: NDArray[np.float64]
    of_row: NDArray[np.intp]

    @classmethod
    def of(cls, told: Told) -> Rows:
        of_row = told.of_row
        request = told.requests[of_row]
        before, after = request["wall_before"], request["wall_after"]
        took = request["ended"] - request["began"]
        slack = SLACK_S + np.where(np.abs(after - before - took) > SLACK_S, took, 0.0)
        event_s = told.rows["event_time"] / 1e6
        return cls(
            actor=told.actor,
            generation=told.generation,
            rows=told.rows,
            request=request,
            began=request["began"],
            ended=request["ended"],
            oldest_s=np.minimum(before, after) - slack - event_s,
            newest_s=np.maximum(before, after) + slack - event_s,
            of_row=of_row,
        )

    def where(self, flags: Flags) -> Rows:
        return Rows(
            self.actor, self.generation, self.rows[flags], self.request[flags], self.began[flags], self.ended[flags],
            self.oldest_s[flags], self.newest_s[flags], self.of_row[flags],
        )  # fmt: skip

    def broken(self, kind: str, what: str, flags: Flags) -> Iterator[Found]:
        """Each row of `flags` as a broken promise."""
        for at in np.flatnonzero(flags):
            yield kind, f"{what}: {self.described(int(at))}"

    def described(self, at: int) -> str:
        row, request = self.rows[at], self.request[at]
        view = KINDS[row["view"]].name
        event = "-" if row["event_time"] == NO_TIME_US else f"{row['event_time']}"
        return (
            f"{self.actor} request {request['id']:x} at {request['began']:.3f}, {view} key {row['key']}: "
            f"{_name(Origin, row['origin'])} {_name(Status, row['status'])} cause {_name(Cause, row['cause'])}, "
            f"event time {event}, age {row['age_s']:.3f} s"
        )


def _name(words: Any, number: int) -> str:
    try:
        return str(words(int(number)).name)
    except ValueError:
        return f"number {number}"


def rows_judged(history: History, ledger: Ledger) -> Iterator[Found]:
    """Every row that breaks a promise, one by one."""
    for told in history.told:
        every = Rows.of(told)
        yield from _whole_rows(told)
        yield from _markers(every.where(every.rows["view"] == MARKER))
        rows = every.where(every.rows["view"] != MARKER)
        origin, status = rows.rows["origin"], rows.rows["status"]
        stored = (origin >= Origin.PRIMARY) & (origin <= Origin.LAST_KNOWN) & (status != Status.NOT_FOUND)
        yield from _served(rows.where(stored), ledger)
        yield from _not_served(rows.where(~stored))
        yield from _origins(rows, history.strikes)
        yield from _causes(rows, history.strikes)
        for source, number in ((PRIMARY, Origin.PRIMARY), (REPLICA, Origin.REPLICA)):
            yield from _up_to_date(rows.where(origin == number), ledger.held[source])
        yield from _missing_from_both(rows, ledger)


def _served(rows: Rows, ledger: Ledger) -> Iterator[Found]:
    """Rows with a value: (b) written so, (c) within the hard limit, (d) age and status true."""
    told, origin = rows.rows, rows.rows["origin"]
    from_image = origin == Origin.SNAPSHOT
    for mine, written, what in (
        (~from_image, ledger.online, "nobody wrote that row"),
        (from_image, ledger.images, "no image that was published has that row"),
    ):
        yield from _written(rows.where(mine), written, what)
    hard_s = np.array([np.inf if kind.hard_s is None else kind.hard_s for kind in KINDS])[told["view"]]
    hard_s = np.fmin(hard_s, rows.request["max_age_s"])
    yield from rows.broken("c", "served past the hard limit", rows.oldest_s > hard_s)
    claimed = told["age_s"]
    low, high = np.maximum(rows.oldest_s, 0.0), np.maximum(rows.newest_s, 0.0)
    yield from rows.broken("d", "its age is another", ~((claimed >= low) & (claimed <= high)))
    ttl_s = np.array([np.inf if kind.ttl_s is None else kind.ttl_s for kind in KINDS])[told["view"]]
    is_present, is_expired = told["status"] == Status.PRESENT, told["status"] == Status.EXPIRED
    yield from rows.broken("d", "PRESENT past its ttl", is_present & (rows.oldest_s > ttl_s))
    yield from rows.broken("d", "EXPIRED before its ttl", is_expired & (rows.newest_s < ttl_s))
    yield from rows.broken("d", "a value that is neither PRESENT nor EXPIRED", ~(is_present | is_expired))


def _written(rows: Rows, written: Written, what: str) -> Iterator[Found]:
    at = written.find(rows.rows)
    known = at != NOWHERE
    yield from rows.broken("b", what, ~known)
    rows, at = rows.where(known), at[known]
    early = written.began[at] > rows.ended
    yield from rows.broken("b", "read before it was written", early)
    told = rows.rows
    right = np.array(
        [
            _digest(view, key, time_us, writer, rows.generation)
            for view, key, time_us, writer in zip(
                told["view"].tolist(), told["key"].tolist(), told["event_time"].tolist(),
                written.generation[at].tolist(), strict=True,
            )
        ],
        np.uint64,
    )  # fmt: skip
    yield from rows.broken("b", "its value is another row's or nobody's", told["digest"] != right)


@lru_cache(maxsize=1 << 20)
def _digest(view: int, key: int, time_us: int, writer: int, reader: int) -> int:
    return wanted(view, key, time_us, writer=writer, reader=reader)


def _not_served(rows: Rows) -> Iterator[Found]:
    """Rows without a stored value: null or the default, undated, and not where somebody surely had one."""
    told, origin = rows.rows, rows.rows["origin"]
    nulls, defaults = (
        np.array([of(kind.number, rows.generation) for kind in KINDS], np.uint64)[told["view"]]
        for of in (null_digest, default_digest)
    )
    right = np.where(origin == Origin.DEFAULT, defaults, nulls)
    yield from rows.broken("b", "a value where there is none", told["digest"] != right)
    yield from rows.broken("d", "dated, though it has no value", told["event_time"] != NO_TIME_US)
    yield from rows.broken("d", "of some age, though it has no value", ~np.isnan(told["age_s"]))
    lost = (origin == Origin.NONE) | (origin == Origin.DEFAULT)
    always = ((told["view"] == BASE) & ~np.isin(told["key"], MORTAL)) | (told["view"] == SLOW)
    had = lost & always & np.isnan(rows.request["max_age_s"]) & (told["status"] != Status.NOT_FOUND)
    yield from rows.broken("d", "no value, though every image has one", had)
    absent = (told["status"] == Status.PRESENT) | ~lost & (told["status"] != Status.NOT_FOUND)
    yield from rows.broken("d", "no value, and a status that says there is", absent)
    silent = lost & (told["status"] == Status.UNAVAILABLE)
    away = np.isin(told["cause"], (Cause.TIMEOUT, Cause.REFUSED, Cause.BREAKER_OPEN, Cause.NO_TIME, Cause.EMPTY))
    yield from rows.broken("d", "UNAVAILABLE, and no reason why", silent & ~away)
    raising = (rows.request["kind"] == RAISING) & (rows.request["outcome"] == ANSWERED)
    unraised = raising & lost & (told["status"] != Status.NOT_FOUND)
    yield from rows.broken("e", "exhausted, and the caller who wanted to be told was not", unraised)


def _markers(rows: Rows) -> Iterator[Found]:
    """A key that is never stored has no value, whoever is asked."""
    told = rows.rows
    yield from rows.broken("b", "a value of a key that nobody ever wrote", told["stamp"] != 0)
    fine = (told["status"] == Status.NOT_FOUND) | (told["status"] == Status.UNAVAILABLE)
    yield from rows.broken("d", "found, though nobody ever wrote it", ~fine)


def _whole_rows(told: Told) -> Iterator[Found]:
    """Facts of a row over all views: `degraded` says so if any view of it is."""
    rows, of_row = told.rows, told.of_row
    online = (rows["origin"] == Origin.PRIMARY) | (rows["origin"] == Origin.REPLICA)
    mine = ~(((rows["status"] == Status.PRESENT) & online) | (rows["status"] == Status.NOT_FOUND))
    whole = np.zeros((len(told.requests), EVERY + 1), bool)
    np.logical_or.at(whole, (of_row, rows["at"]), mine)
    right = whole[of_row, rows["at"]] | whole[of_row, EVERY]
    every = Rows.of(told)
    checked = rows["at"] != EVERY
    yield from every.broken("d", "degraded, or not, and it says otherwise", checked & (right != rows["degraded"]))
    yield from every.broken("d", "injected, and nobody injected anything", rows["injected"])
    raised = np.flatnonzero(told.requests["outcome"] == EXHAUSTED)
    lost = np.isin(rows["status"], (Status.UNAVAILABLE, Status.EXPIRED, Status.CORRUPT)) & (
        rows["origin"] == Origin.NONE
    )
    lost_in = np.bincount(of_row[lost], minlength=len(told.requests)) > 0
    for at in raised[~lost_in[raised]]:
        yield "e", f"{told.actor} request {told.requests[at]['id']:x}: exhausted was raised, and no row is"


def _origins(rows: Rows, strikes: Sequence[Struck]) -> Iterator[Found]:
    """No row is from where it cannot be."""
    told, origin = rows.rows, rows.rows["origin"]
    known = np.isin(origin, [int(one) for one in Origin])
    yield from rows.broken("d", "no such origin", ~known)
    has = {
        Origin.SNAPSHOT: [kind.imaged for kind in KINDS],
        Origin.LAST_KNOWN: [kind.remembered for kind in KINDS],
        Origin.DEFAULT: [kind.default is not None for kind in KINDS],
    }
    for number, views in has.items():
        yield from rows.broken(
            "d", "an origin the view does not have", (origin == number) & ~np.array(views)[told["view"]]
        )
    online = (origin == Origin.PRIMARY) | (origin == Origin.REPLICA)
    yield from rows.broken("d", "asked online without any time", online & (rows.request["deadline_s"] <= 0))
    for strike in strikes:
        if strike.fault in _SILENCES:
            within = (rows.began > strike.gone + SETTLED_S) & (rows.ended < strike.healing)
            for source, number in ((PRIMARY, Origin.PRIMARY), (REPLICA, Origin.REPLICA)):
                if strike.hits(source):
                    yield from rows.broken("d", f"said to be its own under {strike.fault}", within & (origin == number))


def _causes(rows: Rows, strikes: Sequence[Struck]) -> Iterator[Found]:
    """A row says CORRUPT only where something damaged rows, and REFUSED only where somebody refused."""
    told = rows.rows
    online = [strike for strike in strikes if strike.target in ("primary", "replica", "both")]
    damaged = _within(rows, [one for one in online if one.fault in _DAMAGES], LINGERS_S)
    # A layout can be had from a store only: whatever hurts it may keep a foreign generation's rows unread.
    unread = (told["view"] == SCORE) & _within(rows, online, FORGOTTEN_S)
    corrupt = (told["status"] == Status.CORRUPT) | (told["cause"] == Cause.CORRUPT)
    yield from rows.broken("d", "corrupt, and nothing damages rows", corrupt & ~damaged & ~unread)
    refused = told["cause"] == Cause.REFUSED
    yield from rows.broken("d", "refused, and nobody refuses", refused & ~_within(rows, online, LINGERS_S))
    emptied = _within(rows, [one for one in online if one.fault in _LOSSES], DOUBTED_S)
    yield from rows.broken("d", "without its data, and nobody took it", (told["cause"] == Cause.EMPTY) & ~emptied)
    fine = (told["origin"] == Origin.PRIMARY) & (told["status"] == Status.PRESENT) & (told["cause"] != Cause.NONE)
    yield from rows.broken("d", "the primary's own, and yet a cause", fine)
    hurried = rows.request["deadline_s"] <= 0
    asked = ~np.isin(told["cause"], (Cause.NO_TIME, Cause.BREAKER_OPEN, Cause.EMPTY))
    yield from rows.broken("d", "not asked for want of time, and another cause", hurried & asked)


def _within(rows: Rows, strikes: Iterable[Struck], lingers_s: float) -> Flags:
    within = np.zeros(len(rows.rows), bool)
    for strike in strikes:
        within |= (rows.ended >= strike.began) & (rows.began <= strike.healed + lingers_s)
    return within


def _up_to_date(rows: Rows, held: Held) -> Iterator[Found]:
    """What a store is said to say now is no older than what it took for certain before it was asked."""
    newest, is_row = held.newest(rows.rows, rows.began, rows.ended)
    missing = rows.rows["status"] == Status.NOT_FOUND
    older = ~missing & (rows.rows["event_time"] < newest)
    yield from rows.broken("d", "older than what was stored before it was asked for", older)
    yield from rows.broken("d", "not found, though it was stored before it was asked for", missing & is_row)


def _missing_from_both(rows: Rows, ledger: Ledger) -> Iterator[Found]:
    """NOT_FOUND of no store in particular: some store must have said so."""
    lost = (rows.rows["status"] == Status.NOT_FOUND) & np.isin(rows.rows["origin"], (Origin.NONE, Origin.DEFAULT))
    rows = rows.where(lost)
    surely = np.ones(len(rows.rows), bool)
    for held in ledger.held.values():
        surely &= held.newest(rows.rows, rows.began, rows.ended)[1]
    yield from rows.broken("d", "not found, though every store had it", surely)
