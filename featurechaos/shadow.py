"""What each degraded tier would have answered, measured while all is well.

A share of the healthy answers is read again from everything that stands behind a view's first source, each by itself:
replicas, snapshots, last-known rows, defaults. So a fallback is exercised every day, and its price is known before it
is needed. Nothing here does I/O: the clients play the plans, off the request path.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import ne
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurechaos.clock import Clock
from featurechaos.codec import Rows, decode
from featurechaos.codec.layout import BITMAP_AT
from featurechaos.effects import Next, Plan
from featurechaos.errors import StoreError
from featurechaos.locks import Locked
from featurechaos.memory import LastKnown
from featurechaos.metrics.distributions import AGES, SECONDS, Distribution
from featurechaos.model import NO_TIME_US, STATUS_OF, Origin, Status, Verdict
from featurechaos.readings import Flags, Part, Request, judge
from featurechaos.references import mended
from featurechaos.response import Response, ViewAnswer
from featurechaos.sampling import is_sampled

log = logging.getLogger(__name__)

_MOST_WAITING = 32
_MOST_ROWS = 10_000
_LOOK_S = 0.1
"""How often there is a look for answers to compare: taking one wakes nobody."""
_IDLE_S = 10.0
_WINDOW_S = 900.0
"""What is told is of this window and the one before: what the tiers would cost now, rather than last week."""
_LOCAL_S = 1.0


class Tier(NamedTuple):
    """One way to answer without the first source: a store by its name, else (no name) what the process itself has."""

    source: str
    origin: Origin

    @property
    def name(self) -> str:
        return self.source or self.origin.name.lower()


Remembered = Mapping[str, Sequence[bytes | None]]
"""view -> the packed last-known rows of an ask, None where there was none."""
Found = dict[Tier, dict[str, Part | None]]
"""What each tier has of each view's distinct rows; None where its store did not answer."""


class Sample(NamedTuple):
    """A healthy answer, and what was remembered of its rows before it was read."""

    response: Response
    remembered: Remembered


class Priced(NamedTuple):
    """The same answer with one tier's rows where it has them: in all of its views where `covered`, bool (n,)."""

    tier: Tier
    response: Response
    covered: Flags


Listener = Callable[[str, Sequence[Priced]], None]
"""Hears the request's id and what each tier would have answered, off the request path; must not raise."""


@dataclass(slots=True)
class Change:
    """How one feature's values differ: in how many rows, and by how much in those of them that are finite numbers."""

    other: int = 0
    numbers: int = 0
    total: float = 0.0
    most: float = 0.0

    def add(self, more: Change) -> None:
        self.other += more.other
        self.numbers += more.numbers
        self.total += more.total
        self.most = max(self.most, more.most)


@dataclass(slots=True)
class Figures:
    """What one tier is worth to one view.

    rows: rows compared; answered: those that the tier had; other: those of these with another value in some
    requested feature; behind: seconds that the tier's rows are older than those served.
    """

    rows: int = 0
    answered: int = 0
    other: int = 0
    behind: Distribution = field(default_factory=lambda: Distribution(AGES))
    behind_most_s: float = 0.0
    features: dict[str, Change] = field(default_factory=dict)

    def add(self, more: Figures) -> None:
        self.rows += more.rows
        self.answered += more.answered
        self.other += more.other
        self.behind.counts = [
            ours + theirs for ours, theirs in zip(self.behind.counts, more.behind.counts, strict=True)
        ]
        self.behind.total += more.behind.total
        self.behind_most_s = max(self.behind_most_s, more.behind_most_s)
        for name, change in more.features.items():
            self.features.setdefault(name, Change()).add(change)

    def told(self) -> dict[str, Any]:
        dated = self.behind.count
        return {
            "rows": self.rows,
            "answered": _share(self.answered, self.rows),
            "other": _share(self.other, self.answered),
            "behind_s": round(self.behind.total / dated, 3) if dated else None,
            "behind_most_s": round(self.behind_most_s, 3) if dated else None,
            "features": {
                name: {
                    "other": _share(change.other, self.answered),
                    "mean_abs": change.total / change.numbers if change.numbers else None,
                    "most_abs": change.most if change.numbers else None,
                }
                for name, change in self.features.items()
            },
        }


@dataclass(slots=True)
class _Reads:
    """How one store did: `skipped` were not made, since some breaker was not closed or the store was drained."""

    failed: int = 0
    skipped: int = 0
    seconds: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    most_s: float = 0.0

    def told(self) -> dict[str, Any]:
        n = self.seconds.count
        return {
            "reads": n,
            "failed": self.failed,
            "skipped": self.skipped,
            "mean_s": round(self.seconds.total / n, 6) if n else None,
            "most_s": round(self.most_s, 6) if n else None,
        }


class _Rate:
    """At most so many a second, a second's worth at once."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s, self._most, self._at = per_s, max(1.0, per_s), now
        self._tokens = self._most

    def take(self, now: float) -> bool:
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Shadow(Locked):
    """Draws requests by their ids, keeps their answers until they are compared, and counts what comes of it.

    A request that is not drawn pays a digest; one that is, a look at the last-known rows before it is read and a place
    in a queue. Bounds: `max_per_s` requests a second, of them 32 and 10,000 rows (times views) waiting. What is
    beyond is `dropped`.

    Args:
        fetch: reads one source, past every layer.
        timeouts: seconds for a read of each online source.
        may_ask: whether an online source may be asked now.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        share: float,
        max_per_s: float,
        fetch: Next,
        memory: LastKnown,
        origins: Mapping[str, Origin],
        timeouts: Mapping[str, float],
        may_ask: Callable[[str], bool],
    ) -> None:
        super().__init__()
        self._clock, self.share, self._max_per_s = clock, share, max_per_s
        self._fetch, self._memory, self._may_ask = fetch, memory, may_ask
        self._origins, self._timeouts = origins, timeouts
        self.forked()

    def forked(self) -> None:
        """A child counts for itself: what waits and what was counted is its parent's."""
        self._rate = _Rate(self._max_per_s, self._clock.monotonic())
        self._waiting: deque[Sample] = deque()
        self._rows = self._compared = self._dropped = self._failed = 0
        self._all: dict[tuple[str, Tier], Figures] = {}
        self._recent: dict[tuple[str, Tier], Figures] = {}
        self._before: dict[tuple[str, Tier], Figures] = {}
        self._since = self._last = self._clock.monotonic()
        self._reads: dict[str, _Reads] = {}

    def follow(
        self,
        memory: LastKnown,
        *,
        share: float,
        max_per_s: float,
        timeouts: Mapping[str, float],
        may_ask: Callable[[str], bool],
    ) -> None:
        """Go on for another policy, with what was counted."""
        with self._lock:
            self._memory, self.share, self._timeouts, self._may_ask = memory, share, timeouts, may_ask
            if max_per_s != self._max_per_s:
                self._max_per_s, self._rate = max_per_s, _Rate(max_per_s, self._clock.monotonic())

    def before(self, request: Request) -> Remembered | None:
        """Look at what is remembered of a drawn request's rows; None if it is not drawn.

        Before it is read: afterwards the memory holds just what was served, and would look perfect.
        """
        if not is_sampled(request.id, self.share):
            return None
        with self._lock:
            if not self._rate.take(self._clock.monotonic()):
                self._dropped += 1
                return None
        return {
            ask.view.name: self._memory.find(ask.view.base, ask.keys.ids)
            for ask, rules in zip(request.asks, request.rules, strict=True)
            if rules.remembers
        }

    def take(self, response: Response, remembered: Remembered) -> bool:
        """Keep a drawn answer to be compared; False if it is not healthy, or there is no room."""
        if not _is_healthy(response):
            return False
        rows = len(response) * len(response.answers)
        with self._lock:
            if len(self._waiting) >= _MOST_WAITING or self._rows + rows > _MOST_ROWS:
                self._dropped += 1
                return False
            self._waiting.append(Sample(response, remembered))
            self._rows += rows
            self._last = self._clock.monotonic()
        return True

    def next(self) -> Sample | None:
        """The answer that has waited longest."""
        with self._lock:
            if not self._waiting:
                return None
            sample = self._waiting.popleft()
            self._rows -= len(sample.response) * len(sample.response.answers)
        return sample

    def wait_s(self) -> float | None:
        """How long until there may be more to compare; None when nothing has been drawn for a while."""
        if self._waiting:
            return 0.0
        return None if self._clock.monotonic() - self._last > _IDLE_S else _LOOK_S

    def tiers(self, sample: Sample) -> Plan[Found]:
        """Read a sample's rows from every tier: one call a store, which nobody retries, hedges, remembers or judges."""
        answers = {view: one for view, one in sample.response.answers.items() if one.rules.online and len(one.part)}
        found: Found = {}
        for source, views in _stores(answers).items():
            if source in self._timeouts and not self._may_ask(source):
                with self._lock:
                    self._reads.setdefault(source, _Reads()).skipped += 1
                continue
            tier = Tier(source, self._origins[source])
            found[tier] = yield from self._read(source, {view: answers[view] for view in views}, sample.response)
        kept = Tier("", Origin.LAST_KNOWN)
        for view, blobs in sample.remembered.items():
            if view in answers:
                ask, rules = answers[view].ask, answers[view].rules
                rows, _ = decode(blobs, ask.keys.own, ask.layout)
                judge(rows, rules, sample.response.wall_us)
                found.setdefault(kept, {})[view] = Part(rows, origin=int(kept.origin))
        default = Tier("", Origin.DEFAULT)
        for view in _defaulted(sample.response):
            if view in answers:
                blank = Rows.blank(answers[view].ask.layout, len(answers[view].part), Verdict.UNANSWERED)
                found.setdefault(default, {})[view] = Part(blank, origin=int(default.origin))
        return found

    def _read(self, source: str, answers: Mapping[str, ViewAnswer], response: Response) -> Plan[dict[str, Part | None]]:
        begun = self._clock.monotonic()
        request = Request(
            [answer.ask for answer in answers.values()],
            [answer.rules for answer in answers.values()],
            until=begun + self._timeouts.get(source, _LOCAL_S),
            wall_us=response.wall_us,
            id=response.request_id,
            source=source,
        )
        parts: dict[str, Part | None] = dict.fromkeys(answers)
        try:
            reading = yield from self._fetch(request)
        except StoreError as error:
            log.debug("source %r was not read in the shadow: %s", source, error)
        else:
            parts.update(zip(answers, reading.parts, strict=True))
        seconds = self._clock.monotonic() - begun
        with self._lock:
            reads = self._reads.setdefault(source, _Reads())
            reads.seconds.add(seconds)
            reads.most_s = max(reads.most_s, seconds)
            reads.failed += None in parts.values()
        return parts

    def count(self, sample: Sample, found: Found) -> list[Priced]:
        """Compare what was served with what each tier has, and count it; the same answer from each tier."""
        try:
            served = _apart(sample.response)
            figures, priced = compare(served, found)
        except Exception as error:  # noqa: BLE001 - `failed` logs it
            self.failed(error)
            return []
        with self._lock:
            self._turn(self._clock.monotonic())
            self._compared += 1
            for key, one in figures.items():
                self._all.setdefault(key, Figures()).add(one)
                self._recent.setdefault(key, Figures()).add(one)
        return priced

    def failed(self, error: Exception) -> None:
        """Count a sample that could not be compared; the first is logged."""
        with self._lock:
            self._failed += 1
            is_first = self._failed == 1
        if is_first:
            log.warning("an answer could not be compared with the tiers behind it", exc_info=error)

    def _turn(self, now: float) -> None:
        """Begin another window when the present one is over."""
        if now - self._since >= _WINDOW_S:
            self._before = self._recent if now - self._since < 2 * _WINDOW_S else {}
            self._recent, self._since = {}, now

    def told(self) -> dict[str, Any]:
        """What each tier would cost now, as plain values; `views` is of the last quarter of an hour or two."""
        with self._lock:
            self._turn(self._clock.monotonic())
            views: dict[str, list[dict[str, Any]]] = {}
            for key in {**self._before, **self._recent}:
                both = Figures()
                for window in (self._before, self._recent):
                    if key in window:
                        both.add(window[key])
                view, tier = key
                told = {"tier": tier.name, "origin": tier.origin.name, **both.told()}
                views.setdefault(view, []).append(told)
            return {
                "share": self.share,
                "compared": self._compared,
                "dropped": self._dropped,
                "failed": self._failed,
                "sources": {source: reads.told() for source, reads in self._reads.items()},
                "views": views,
            }

    def metrics(self) -> dict[str, dict[tuple[str, ...], float | Distribution]]:
        """Everything counted since the start, by metric and labels."""
        with self._lock:
            rows: dict[tuple[str, ...], float | Distribution] = {}
            behind: dict[tuple[str, ...], float | Distribution] = {}
            for (view, tier), one in self._all.items():
                labels = (view, tier.source, tier.origin.name)
                rows[*labels, "same"] = one.answered - one.other
                rows[*labels, "other"] = one.other
                rows[*labels, "lacking"] = one.rows - one.answered
                if one.behind.count:
                    behind[labels] = one.behind.copy()
            return {
                "shadow_requests_total": {
                    ("compared",): self._compared,
                    ("dropped",): self._dropped,
                    ("failed",): self._failed,
                },
                "shadow_rows_total": rows,
                "shadow_behind_seconds": behind,
                "shadow_read_seconds": {(source,): one.seconds.copy() for source, one in self._reads.items()},
            }


def compare(served: Response, found: Found) -> tuple[dict[tuple[str, Tier], Figures], list[Priced]]:
    """Hold each tier's rows against those served, feature by feature; rows that have changed since are left out."""
    figures: dict[tuple[str, Tier], Figures] = {}
    priced = []
    clean = {view: answer.part for view, answer in served.answers.items()}
    for tier, parts in found.items():
        usable = {view: _usable(part, served.answers[view]) for view, part in parts.items()}
        mixed = {view: _mixed(clean[view], part, usable[view]) for view, part in parts.items() if part is not None}
        degraded = served.with_parts({**clean, **mixed})
        covered = np.ones(len(served), bool)
        for view in parts:
            counted, answered = _answered(served, degraded, view, usable[view])
            figures[view, tier] = _figures(served, degraded, view, counted, answered)
            covered &= answered
        priced.append(Priced(tier, degraded, covered))
    return figures, priced


def differs(ours: NDArray[Any], theirs: NDArray[Any], our_nulls: Flags, their_nulls: Flags) -> Flags:
    """bool (n,): rows whose values are not the same, exactly; null is like null, and NaN like NaN."""
    other: Flags = our_nulls != their_nulls
    both = ~(our_nulls | their_nulls)
    if ours.dtype == object:
        at = np.flatnonzero(both)
        other[at] = [not _same(ours[i], theirs[i]) for i in at.tolist()]
        return other
    unlike = ours != theirs
    if ours.dtype.kind == "f":
        unlike &= ~(np.isnan(ours) & np.isnan(theirs))
    other |= both & (unlike.any(axis=1) if unlike.ndim == 2 else unlike)
    return other


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or bool(one != one and other != other)  # noqa: PLR0124 - NaN


def _answered(served: Response, degraded: Response, view: str, usable: Flags) -> tuple[Flags, Flags]:
    """The caller's rows that are compared, and those of them that a tier would have answered."""
    answer, truth = served.answers[view], served.provenance(view)
    online = (truth.origin == Origin.PRIMARY) | (truth.origin == Origin.REPLICA)
    healthy: Flags = online & (truth.status == Status.PRESENT)
    has = answer.spread(usable, False, bool)
    moved = has & (degraded.provenance(view).event_time > served.wall_us)
    return healthy & ~moved, healthy & ~moved & has


def _usable(part: Part | None, answer: ViewAnswer) -> Flags:
    """The distinct rows that would be served from here if nothing younger were found."""
    if part is None:
        return np.zeros(len(answer.part), bool)
    if part.origin == Origin.DEFAULT:
        return np.ones(len(part), bool)
    verdict = part.rows.verdicts
    usable: Flags = verdict == Verdict.FRESH
    if answer.rules.on_expired != "default":
        usable |= verdict == Verdict.EXPIRED
    return usable


def _mixed(clean: Part, part: Part, usable: Flags) -> Part:
    """The rows of a tier where it has them, else those served: no model sees holes that no request would."""
    new, at = mended(clean), np.flatnonzero(usable)
    new.rows.put(at, part.rows, at)
    new.origin[at] = part.origin  # type: ignore[index]
    new.status[at] = STATUS_OF[part.rows.verdicts[at]]  # type: ignore[index]
    return new


def _figures(served: Response, degraded: Response, view: str, counted: Flags, answered: Flags) -> Figures:
    rows, tier_rows = served.answers[view].rows, degraded.answers[view].rows
    # Most rows are the same to the bit; a default stands for a row that has no bits.
    is_stored = degraded.provenance(view).origin != Origin.DEFAULT
    at = np.flatnonzero(answered & (_unlike(rows, tier_rows) | ~is_stored))
    other = np.zeros(len(at), bool)
    features = {name: Change() for name in _names(served, view)}
    for name in features if len(at) else ():
        full = f"{view}:{name}"
        ours, theirs = served.columns[full][at], degraded.columns[full][at]
        our_nulls, their_nulls = served.nulls[full][at], degraded.nulls[full][at]
        unlike = differs(ours, theirs, our_nulls, their_nulls)
        numbers = unlike & ~(our_nulls | their_nulls)
        features[name] = _change(ours[numbers], theirs[numbers], int(unlike.sum()))
        other |= unlike
    time, their_time = served.provenance(view).event_time, degraded.provenance(view).event_time
    dated = answered & (time != NO_TIME_US) & (their_time != NO_TIME_US)
    behind_s = np.maximum(time[dated] - their_time[dated], 0) / 1e6
    figures = Figures(int(counted.sum()), int(answered.sum()), int(other.sum()), features=features)
    if len(behind_s):
        found = np.bincount(np.searchsorted(AGES, behind_s), minlength=len(AGES) + 1)
        figures.behind = Distribution(AGES, found.tolist(), float(behind_s.sum()))
        figures.behind_most_s = float(behind_s.max())
    return figures


def _unlike(ours: Rows, theirs: Rows) -> Flags:
    """Rows whose values may differ, since what is stored of them does."""
    unlike: Flags = (ours.words[:, BITMAP_AT:] != theirs.words[:, BITMAP_AT:]).any(axis=1)
    tails, their_tails = ours.tails, theirs.tails
    if tails is not None and their_tails is not None:
        unlike |= np.fromiter(map(ne, tails, their_tails), bool, len(tails))
    return unlike


def _change(ours: NDArray[Any], theirs: NDArray[Any], other: int) -> Change:
    change = Change(other)
    if ours.dtype.kind in "fiu" and ours.ndim == 1 and len(ours):
        size = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        size = size[np.isfinite(size)]
        change.numbers, change.total, change.most = len(size), float(size.sum()), float(size.max(initial=0.0))
    return change


def _is_healthy(response: Response) -> bool:
    """Every row is what the first source says of it, and no fault was near."""
    if response.is_plain:
        return True
    return not any(np.any(answer.part.injected) or np.any(answer.part.cause) for answer in response.answers.values())


def _apart(response: Response) -> Response:
    """The same answer with columns of its own: those of the caller are the caller's to write."""
    return response.with_parts({view: mended(answer.part) for view, answer in response.answers.items()})


def _stores(answers: Mapping[str, ViewAnswer]) -> dict[str, list[str]]:
    """The stores behind the first source of each view, in the order they are asked, and the views of each."""
    stores: dict[str, list[str]] = {}
    for view, answer in answers.items():
        for source in (*answer.rules.online[1:], *answer.rules.local):
            stores.setdefault(source, []).append(view)
    return stores


def _names(response: Response, view: str) -> list[str]:
    """The features asked of a view."""
    return [name for of, _, name in (full.partition(":") for full in response.features) if of == view]


def _defaulted(response: Response) -> list[str]:
    """The views of which a requested feature has a default."""
    return [
        view
        for view, answer in response.answers.items()
        if any(answer.view.feature[name].default is not None for name in _names(response, view))
    ]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
