"""What travels down a plan and what comes back up: `Request`, `Reading`, and the rules of a row.

A reading holds one `Part` a view. While every row of a part agrees, its facts are plain ints; they
become arrays only when rows differ, so that a healthy read never pays for the bad day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import Layout, Packed, Rows, decode, pack, verify
from featurechaos.errors import BreakerOpen, NoTime, StoreEmpty, StoreError, StoreTimeout
from featurechaos.model import NO_TIME_US, STATUS_OF, Cause, Origin, Status, Verdict
from featurechaos.stores import Answer, Ask, Block, Columns, Partial

_new = object.__new__
# Plain ints: numpy takes three to six times as long to compare an array with a member of an enum.
_UNANSWERED, _FRESH, _MISSING, _BURIED, _EXPIRED, _PAST, _CORRUPT, _PARTIAL = map(int, Verdict)
_NO_CAUSE, _NO_ORIGIN, _PRIMARY, _DEFAULTED = map(int, (Cause.NONE, Origin.NONE, Origin.PRIMARY, Origin.DEFAULT))
_ONLINE = (_PRIMARY, int(Origin.REPLICA))
_STATUS_CORRUPT = int(Status.CORRUPT)
_IS_DATED = ~np.isin(np.arange(len(Verdict)), (_UNANSWERED, _MISSING, _CORRUPT))
_REFUSED_AS = np.zeros(len(Verdict), np.uint8)
"""The verdict of a row that no online source spoke of and no local copy may be served of, by that copy's."""
_REFUSED_AS[[_EXPIRED, _PAST, _CORRUPT]] = _EXPIRED, _EXPIRED, _CORRUPT

Flags = NDArray[np.bool_]
Codes = NDArray[np.uint8]
Index = NDArray[np.intp]

_CAUSE_OF = np.array(
    [
        Cause.EMPTY,  # a source that answers and leaves a row unanswered is without its data
        Cause.NONE,
        Cause.MISSING,
        Cause.MISSING,
        Cause.EXPIRED,
        Cause.EXPIRED,
        Cause.CORRUPT,
        Cause.CORRUPT,
    ],
    np.uint8,
)


@dataclass(frozen=True, slots=True)
class Rules:
    """How one view falls back, in one call.

    `online` and `local` are source names in order; ages are microseconds, None where there is no limit.
    """

    online: tuple[str, ...]
    local: tuple[str, ...] = ()
    ttl_us: int | None = None
    hard_us: int | None = None
    on_missing: str = "accept"
    on_expired: str = "fallback"
    on_exhausted: str = "default"
    remembers: bool = True
    limit_us: int | None = field(init=False, repr=False)
    """The tighter of the two limits: no row within it is too old."""

    def __post_init__(self) -> None:
        limits = [each for each in (self.ttl_us, self.hard_us) if each is not None]
        object.__setattr__(self, "limit_us", min(limits, default=None))


class Started:
    """A request's first read, made before its plan: who was asked, since when and by when, and what came.

    It is taken once; `permit` is the breaker's, `walk_until` when the online walk is to end, `seconds` what it took,
    told once it is known to be all that is needed.
    """

    answers: list[Answer] | None = None
    error: StoreError | None = None
    is_taken = False
    seconds: float | None = None

    def __init__(self, source: str, begun: float, until: float, walk_until: float, permit: Any = None) -> None:
        self.source, self.begun, self.until, self.walk_until, self.permit = source, begun, until, walk_until, permit

    def take(self) -> list[Answer]:
        """What came; raises what it failed with."""
        self.is_taken = True
        if self.answers is None:
            assert self.error is not None
            raise self.error
        return self.answers


class Request:
    """Rows wanted from some views by one absolute deadline.

    `until` is monotonic seconds, `wall_us` the wall clock when the request began. `id` may be given as the 128 bits it
    is the hex of (`drawn`). `source` is whom to ask, once a layer has decided. `defaults` names the views of which a
    requested feature has a default. `met` is what the call has met on its way and counts once, however often it asks:
    leases, the names of sources where a fault hit it, what a replica said before its turn; `started` is its first
    read, if that has been made. All requests made of one share both.
    """

    __slots__ = ("asks", "defaults", "drawn", "met", "rules", "source", "started", "until", "wall_us")

    def __init__(
        self,
        asks: Sequence[Ask],
        rules: Sequence[Rules],
        *,
        until: float,
        wall_us: int,
        id: str | int = "",  # noqa: A002 - the field's own name
        source: str = "",
        defaults: frozenset[str] = frozenset(),
        met: set[object] | None = None,
    ) -> None:
        self.asks, self.rules = asks, rules
        self.met = set() if met is None else met
        self.until, self.wall_us, self.drawn = until, wall_us, id
        self.source, self.defaults = source, defaults
        self.started: Started | None = None

    @property
    def id(self) -> str:
        """What faults and sampling draw by."""
        return self.drawn if isinstance(self.drawn, str) else f"{self.drawn:032x}"

    @property
    def head(self) -> Started | None:
        """The read of this request's source that has been made already, if it is still to be taken."""
        started = self.started
        return started if started is not None and not started.is_taken and started.source == self.source else None

    def to(self, source: str, until: float | None = None) -> Request:
        """The same rows, asked of one source, perhaps by an earlier time."""
        return self._like(self.asks, self.rules, source, self.until if until is None else until)

    def of(self, asks: Sequence[Ask], rules: Sequence[Rules]) -> Request:
        """Other rows for the same caller."""
        return self._like(asks, rules, self.source, self.until)

    def _like(self, asks: Sequence[Ask], rules: Sequence[Rules], source: str, until: float) -> Request:
        like = _new(Request)  # not `Request(...)`, whose keywords cost as much as the copy: it is made thrice a read
        like.asks, like.rules, like.source, like.until = asks, rules, source, until
        like.wall_us, like.drawn, like.defaults, like.met = self.wall_us, self.drawn, self.defaults, self.met
        like.started = self.started
        return like

    def __repr__(self) -> str:
        views = ", ".join(f"{ask.view.name} x {len(ask.keys)}" for ask in self.asks)
        return f"Request({self.source or 'anyone'}: {views})"


class Part:
    """One view's rows in a reading, with where each came from and why.

    Attributes:
        rows: packed rows; their verdicts are ages judged.
        origin, cause: an `Origin`, a `Cause`; ints while all rows agree, else uint8 (n,).
        status: a `Status`, int or uint8 (n,); final once `Fallback` has seen the part.
        injected: whether a fault touched the row; a bool or bool (n,).
        exhausted: rows nobody could serve; None for no row, else bool (n,).
        clean: the same rows before a fault changed them (verdict UNANSWERED where it left them alone); None
            if nothing was changed.
        unread: rows an injected outage kept from being read, so that no reference exists; None or bool (n,).
        walk: what failover still knows of rows not settled; None once nothing is open.
    """

    status: int | Codes = int(Status.PRESENT)  # an enum's hash is a call
    injected: bool | Flags = False
    exhausted: Flags | None = None
    clean: Rows | None = None
    unread: Flags | None = None
    walk: Walk | None = None

    def __init__(self, rows: Rows, origin: int | Codes, cause: int | Codes = 0) -> None:
        self.rows, self.origin, self.cause = rows, origin, cause

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_fresh(self) -> bool:
        """Every row fresh, from one source; a fault may still have touched them."""
        verdict = self.rows.verdict
        return isinstance(verdict, int) and verdict == _FRESH

    @property
    def is_healthy(self) -> bool:
        """Every row fresh, from one online source."""
        return self.is_fresh and isinstance(self.origin, int) and self.origin in _ONLINE

    @property
    def is_uniform(self) -> bool:
        """The same is true of every row."""
        injected = self.injected
        return (
            (injected is False or injected is True)
            and not isinstance(self.origin, np.ndarray)
            and not isinstance(self.status, np.ndarray)
            and not isinstance(self.cause, np.ndarray)
        )

    def fill(self, index: Index, other: Part) -> None:
        """Put what the same source said of rows `index`, asked once more, in place of what it said first."""
        n = len(self)
        self.rows.put(index, other.rows, np.arange(len(index)))
        cause = spread(self.cause, n)
        cause[index] = other.cause
        self.cause = cause if cause.any() else Cause.NONE  # type: ignore[assignment]
        if other.injected is not self.injected:
            injected = spread(self.injected, n, bool)
            injected[index] = other.injected
            self.injected = injected  # type: ignore[assignment]
        if other.clean is not None:
            if self.clean is None:
                self.clean = Rows.blank(self.rows.layout, n, Verdict.UNANSWERED)
            self.clean.put(index, other.clean, np.arange(len(index)))


class Reading:
    """What came back: a part for each ask, in the asks' order.

    `is_partial`: it is of one source, of which some shard did not answer; those rows have a cause in their parts.
    `is_plain`: all of it is known to be fresh.
    """

    __slots__ = ("is_partial", "is_plain", "parts")

    def __init__(self, parts: list[Part], *, is_plain: bool = False) -> None:
        self.parts, self.is_partial, self.is_plain = parts, False, is_plain

    @property
    def is_settled(self) -> bool:
        for part in self.parts:  # noqa: SIM110 - a generator costs more than all it looks at
            if part.walk is not None:
                return False
        return True

    @property
    def is_fresh(self) -> bool:
        """Every row of every part fresh."""
        for part in self.parts:  # noqa: SIM110 - as above
            if not part.is_fresh:
                return False
        return True


def spread(value: int | bool | NDArray[np.generic], n: int, dtype: type = np.uint8) -> NDArray[np.generic]:
    """One fact of every row, as an array of its own to write."""
    return value if isinstance(value, np.ndarray) else np.full(n, value, dtype)


def rows_of(ask: Ask, answer: Answer, known: Mapping[int, Layout]) -> tuple[Rows, frozenset[int]]:
    """An answer of any form as packed rows, and the schema hashes that nobody has described yet."""
    if isinstance(answer, list | Packed):
        return decode(answer, ask.keys.own, ask.layout, known)
    if isinstance(answer, Partial):
        rows, unknown = decode(answer.rows, ask.keys.own, ask.layout, known)
        verdict = rows.verdicts
        for _, lost in answer.lost:
            verdict[lost] = Verdict.UNANSWERED
        rows.verdict = verdict
        return rows, unknown
    if isinstance(answer, Block):
        return verify(answer.words, ask.keys.own, ask.layout, answer.found), frozenset()
    assert isinstance(answer, Columns)
    rows = pack(ask.layout, answer.values, answer.nulls, answer.event_time, ask.keys.own, answer.verdict)
    return rows, frozenset()


def causes_of(answer: Partial, n: int) -> Codes:
    """Why rows of an answer were not answered, as `Part.cause` has it."""
    causes = np.zeros(n, np.uint8)
    for error, lost in answer.lost:
        causes[lost] = cause_of(error)
    return causes


def cause_of(error: StoreError) -> Cause:
    """How a source's failure is told in a row's provenance."""
    if isinstance(error, StoreTimeout):
        return Cause.TIMEOUT
    if isinstance(error, BreakerOpen):
        return Cause.BREAKER_OPEN
    if isinstance(error, NoTime):
        return Cause.NO_TIME
    if isinstance(error, StoreEmpty):
        return Cause.EMPTY
    return Cause.REFUSED


def judge(rows: Rows, rules: Rules, wall_us: int) -> None:
    """Turn intact rows that are too old into EXPIRED or PAST, in place."""
    limit = rules.limit_us
    if limit is None:
        return
    event_time, verdict = rows.event_time, rows.verdict
    if isinstance(verdict, int) and (verdict != _FRESH or not len(rows) or event_time.min() >= wall_us - limit):
        return
    soft, hard = rules.ttl_us, rules.hard_us
    verdict = rows.verdicts
    fresh = verdict == _FRESH
    if soft is not None:
        verdict[fresh & (event_time < wall_us - soft)] = _EXPIRED
    if hard is not None:
        verdict[(fresh | (verdict == _PARTIAL)) & (event_time < wall_us - hard)] = _PAST
    rows.verdict = verdict


class Action(IntEnum):
    """What one answer of an online source does to a row that is open."""

    GO_ON = 0
    HOLD = 1
    """Keep it, unless what is held is better, and go on."""
    SERVE = 2
    """It is the answer, unless what is held hides it."""
    DEFAULT = 3
    """The policy sends the row straight to its default."""


_SERVE, _HOLD, _TO_DEFAULT = int(Action.SERVE), int(Action.HOLD), int(Action.DEFAULT)


@cache
def actions(on_missing: str, on_expired: str) -> Codes:
    """CONTRACT section 4, (2), as a table: uint8 (2, verdicts), for a later and for the first answer to a row."""
    table = np.full((2, len(Verdict)), Action.GO_ON, np.uint8)
    table[:, Verdict.FRESH] = Action.SERVE
    table[:, [Verdict.BURIED, Verdict.PARTIAL]] = Action.HOLD
    table[:, Verdict.EXPIRED] = {"serve": Action.SERVE, "fallback": Action.HOLD, "default": Action.DEFAULT}[on_expired]
    if on_expired == "default":
        table[:, Verdict.PAST] = Action.DEFAULT
    if on_missing != "fallback":
        absent = Action.SERVE if on_missing == "accept" else Action.DEFAULT
        table[1, [Verdict.MISSING, Verdict.BURIED]] = absent
    return table


class Walk:
    """One view's rows on their way through the sources: which are settled, what the open ones hold.

    The best row so far is kept in `rows`; its verdict there is UNANSWERED while nothing is held. `part` shows
    the same arrays as a reading does. `first` is the first verdict any online source gave; `open` the rows
    still to be asked for; `defaulted` those a policy sent straight to the default.
    """

    __slots__ = ("cause", "defaulted", "first", "injected", "open", "origin", "part", "rows")

    def __init__(self, ask: Ask) -> None:
        n = len(ask.keys)
        self.rows = Rows.blank(ask.layout, n, _UNANSWERED)
        self.rows.verdict = np.zeros(n, np.uint8)  # UNANSWERED: an array from now on, changed in place
        self.origin, self.cause = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        self.injected = np.zeros(n, bool)
        self.part = Part(self.rows, origin=self.origin, cause=self.cause)
        self.part.injected = self.injected
        self.part.walk = self
        self.first = np.zeros(n, np.uint8)
        self.open = np.ones(n, bool)
        self.defaulted = np.zeros(n, bool)

    @property
    def index(self) -> Index:
        return self.open.nonzero()[0]

    def failed(self, index: Index, cause: Cause, *, injected: bool) -> None:
        """Nobody answered for these rows."""
        self.cause[index[self.cause[index] == _NO_CAUSE]] = cause
        if injected:
            self.kept_from(index)

    def kept_from(self, index: Index) -> None:
        """A fault kept these rows from being read somewhere: what was there is not known."""
        self.injected[index] = True
        unread = self.part.unread if self.part.unread is not None else np.zeros(len(self.open), bool)
        unread[index] = True
        self.part.unread = unread

    def heard(self, index: Index, answer: Part, rules: Rules) -> Codes:
        """Take in what a source said of the open rows `index`; returns the cause of each row it left open or
        defaulted (NONE for a row it settled by serving it)."""
        verdict = answer.rows.verdicts
        event_time = answer.rows.event_time
        is_first = self.first[index] == _UNANSWERED
        self.first[index] = np.where(is_first, verdict, self.first[index])

        held = self.rows.verdicts[index]
        is_beaten = (held == _EXPIRED) | (held == _BURIED)
        is_beaten &= event_time <= self.rows.event_time[index]
        is_beaten |= (verdict == _PARTIAL) & (held != _UNANSWERED)
        action = actions(rules.on_missing, rules.on_expired)[is_first.astype(np.uint8), verdict]
        stops = (action == _SERVE) & ~is_beaten
        take = stops | ((action == _HOLD) & ~is_beaten)
        defaulted = action == _TO_DEFAULT

        why = _CAUSE_OF[verdict]
        if not isinstance(answer.cause, int):
            why = np.where(answer.cause != _NO_CAUSE, answer.cause, why)
        cause = np.where(stops, np.uint8(_NO_CAUSE), why)
        earlier = self.cause[index]
        self.cause[index] = np.where(earlier == _NO_CAUSE, cause, earlier)
        mine = take.nonzero()[0]
        if len(mine):
            at = index[mine]
            self.rows.put(at, answer.rows, mine)
            self.origin[at] = answer.origin if isinstance(answer.origin, int) else answer.origin[mine]
        if answer.injected is not False:
            self.injected[index] |= answer.injected
        self._keep_clean(index, answer)
        undated = index[stops & ((verdict == _MISSING) | (verdict == _BURIED))]
        self.rows.event_time[undated] = NO_TIME_US  # a tombstone's date is not the date of a value
        done = index[defaulted]
        self.rows.verdicts[done] = self.first[done]
        self.defaulted[done] = True
        self.open[index[stops | defaulted]] = False
        return cause

    def _keep_clean(self, index: Index, answer: Part) -> None:
        """The first clean copy of a row is its reference, whoever serves it in the end."""
        if answer.clean is None:
            return
        if self.part.clean is None:
            self.part.clean = Rows.blank(self.rows.layout, len(self.open), _UNANSWERED)
            self.part.clean.verdict = self.part.clean.verdicts
        new = (self.part.clean.verdicts[index] == _UNANSWERED) & (answer.clean.verdicts != _UNANSWERED)
        self.part.clean.put(index[new], answer.clean, np.flatnonzero(new))


@dataclass(slots=True, eq=False)
class Local:
    """What one local tier has for some rows: rows judged, and the origin they would be served as."""

    rows: Rows
    origin: Origin
    injected: bool | Flags = False


def settle(walk: Walk, index: Index, tiers: Sequence[Local], rules: Rules) -> None:
    """Finish the open rows `index` of a walk from the local tiers, then by default; CONTRACT section 4, (3) to (6).

    Ties in event time go to the lower origin: what an online source holds, then tiers in their order.
    """
    best, time, chosen = _youngest(tiers, len(index))
    held = walk.rows.verdicts[index]
    candidate = held == _EXPIRED
    usable = best == _FRESH
    if rules.on_expired != "default":
        usable |= best == _EXPIRED
    usable &= ~(candidate | (held == _BURIED)) | (time > walk.rows.event_time[index])
    for number, tier in enumerate(tiers, 1):
        mine = (usable & (chosen == number)).nonzero()[0]
        if len(mine):
            at = index[mine]
            walk.rows.put(at, tier.rows, mine)
            walk.origin[at] = tier.origin
            if tier.injected is not False:
                walk.injected[at] |= tier.injected if isinstance(tier.injected, bool) else tier.injected[mine]
    lost = (~(usable | candidate | (held == _PARTIAL))).nonzero()[0]
    if len(lost):
        _refuse(walk, index[lost], best[lost])


def _youngest(tiers: Sequence[Local], n: int) -> tuple[Codes, NDArray[np.int64], NDArray[np.int8]]:
    """Per row the later event time over all tiers; a tombstone hides what is older than it.

    Also whose it is, the first tier being 1; 0 for a row that no tier dates, whose time says nothing.
    """
    best = np.zeros(n, np.uint8)  # UNANSWERED
    time, chosen = np.zeros(n, np.int64), np.zeros(n, np.int8)
    for number, tier in enumerate(tiers, 1):
        verdict, event_time = tier.rows.verdicts, tier.rows.event_time
        best[(verdict == _CORRUPT) & (best == _UNANSWERED)] = _CORRUPT
        wins = (_IS_DATED[verdict] & ((chosen == 0) | (event_time > time))).nonzero()[0]
        best[wins], time[wins], chosen[wins] = verdict[wins], event_time[wins], number
    return best, time, chosen


def _refuse(walk: Walk, index: Index, local: Codes) -> None:
    """Rows nobody can serve: without a value, with the verdict their status comes from."""
    verdict = walk.first[index]
    unheard = (verdict == _UNANSWERED).nonzero()[0]
    verdict[unheard] = _REFUSED_AS[local[unheard]]
    walk.rows.verdicts[index] = verdict
    lost = index[~((verdict == _MISSING) | (verdict == _BURIED) | walk.defaulted[index])]
    if len(lost):
        exhausted = walk.part.exhausted if walk.part.exhausted is not None else np.zeros(len(walk.open), bool)
        exhausted[lost] = True
        walk.part.exhausted = exhausted
    walk.defaulted[index] = True


def finish(walk: Walk, *, has_default: bool, raises: bool) -> Part:
    """Close a walk: statuses from verdicts, defaulted rows without a value and marked, the walk let go.

    Where the caller wants to be told (`raises`), exhausted rows stay without a value.
    """
    part = walk.part
    part.status = STATUS_OF[walk.rows.verdicts]
    at = walk.defaulted.nonzero()[0]
    if len(at):
        walk.rows.clear(at)
        walk.origin[at] = _DEFAULTED if has_default else _NO_ORIGIN
        if raises and part.exhausted is not None:
            walk.origin[part.exhausted] = _NO_ORIGIN
    from_primary = (walk.origin == _PRIMARY) & (part.status != _STATUS_CORRUPT)
    walk.cause[from_primary] = _NO_CAUSE
    part.walk = None
    return part


def tightened(rules: Rules, max_age_us: int | None) -> Rules:
    """The same rules under a call's own hard limit; the smaller limit holds."""
    if max_age_us is None or (rules.hard_us is not None and rules.hard_us <= max_age_us):
        return rules
    return replace(rules, hard_us=max_age_us)
