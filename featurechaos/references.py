"""The same request on clean features: what a pair compares a served response with.

The reference of a value fault is the reading before it, kept with the response. An injected outage owes one clean
read, off the request path, which feeds no breaker, budget, quantile or cache. Where the store itself is
gone, `impact.reference_source` is read. What is read goes by the rules that the call was under, as it would have
without the fault. Rows that changed since the request are no reference any more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featurechaos.codec import Rows
from featurechaos.effects import Next, Plan
from featurechaos.errors import StoreError
from featurechaos.model import Cause, Origin, Status, Verdict
from featurechaos.readings import Flags, Index, Part, Reading, Request, Rules, Walk, finish, settle, spread
from featurechaos.response import Response, ViewAnswer

WITHIN_S = 1.0
"""How long a clean read may take: nobody waits for it."""

Wants = dict[str, Index]
"""view -> the rows that want a clean read."""


def reference(response: Response, fetch: Next, *, witness: str | None, now: float) -> Plan[Response]:
    """The response on clean features; `response` itself if what was served is clean.

    A row that an injected outage kept from being read owes a clean read of the first source of its order, even where
    a replica covered it: the replica may lag. What that source does not answer, and what was degraded without a
    fault, the witness is asked for. Rows that are still `degraded` have no reference: nothing clean could be had, or
    the store has moved on.
    """
    answers = response.answers
    if not any(_is_touched(answer.part) for answer in answers.values()):
        return response
    parts = {view: mended(answer.part) for view, answer in answers.items()}
    owed, lost = _owed(answers, parts)
    if witness is not None and witness in owed:
        _add(owed[witness], lost)
        lost = {}
    for source, wants in owed.items():
        request = _request(response, source, wants, until=now + WITHIN_S)
        if not (yield from _read(request, wants, parts, fetch)) and source != witness:
            _add(lost, wants)
    if witness is not None and lost:
        request = _request(response, witness, lost, until=now + 2 * WITHIN_S)
        yield from _read(request, lost, parts, fetch, is_witness=True)
    return response.with_parts(parts)


def mended(part: Part) -> Part:
    """A copy of a part with every row a fault changed as it was before."""
    n = len(part)
    new = Part(
        part.rows.copy(),
        origin=spread(part.origin, n).copy(),  # type: ignore[arg-type]
        cause=spread(part.cause, n).copy(),  # type: ignore[arg-type]
    )
    new.status = spread(part.status, n).copy()  # type: ignore[assignment]
    if part.clean is not None:
        index = np.flatnonzero(part.clean.verdicts == Verdict.FRESH)
        _put(new, index, part.clean, index)
    return new


def _is_touched(part: Part) -> bool:
    return not part.is_healthy or part.clean is not None or part.injected is not False


def _owed(answers: Mapping[str, ViewAnswer], parts: Mapping[str, Part]) -> tuple[dict[str, Wants], Wants]:
    """Which rows owe a read of a source, and which are degraded though no fault kept them from being read."""
    owed: dict[str, Wants] = {}
    lost: Wants = {}
    for view, answer in answers.items():
        unread = np.zeros(len(answer.part), bool) if answer.part.unread is None else answer.part.unread
        if unread.any() and answer.rules.online:
            owed.setdefault(answer.rules.online[0], {})[view] = np.flatnonzero(unread)
        if (rows := np.flatnonzero(degraded(parts[view]) & ~unread)).size:
            lost[view] = rows
    return owed, lost


def _add(wants: Wants, more: Wants) -> None:
    for view, rows in more.items():
        wants[view] = np.union1d(wants[view], rows) if view in wants else rows


def _request(response: Response, source: str, wants: Wants, *, until: float) -> Request:
    return Request(
        [response.answers[view].ask.only(rows) for view, rows in wants.items()],
        [response.answers[view].rules for view in wants],
        until=until,
        wall_us=response.wall_us,
        source=source,
        defaults=frozenset(
            view
            for view, _, feature in (full.partition(":") for full in response.features)
            if response.answers[view].view.feature[feature].default is not None
        ),
    )


def degraded(part: Part) -> Flags:
    """Rows that are not simply what an online source says."""
    online = (part.origin == Origin.PRIMARY) | (part.origin == Origin.REPLICA)
    return np.asarray(~(((part.status == Status.PRESENT) & online) | (part.status == Status.NOT_FOUND)))


def _is_stored(part: Part) -> Flags:
    """Rows whose values some tier had, rather than defaults or nothing."""
    is_kept = (part.origin != Origin.NONE) & (part.origin != Origin.DEFAULT)
    return np.asarray(is_kept & ((part.status == Status.PRESENT) | (part.status == Status.EXPIRED)))


def _read(
    request: Request, wants: Wants, parts: Mapping[str, Part], fetch: Next, *, is_witness: bool = False
) -> Plan[bool]:
    """Read some rows clean and put what they become in their parts; whether the source answered.

    A witness that lacks a row which somebody served from what is stored is one that nobody fills, so it says nothing
    of that row. A deletion it would know of by the tombstone.
    """
    try:
        reading: Reading = yield from fetch(request)
    except StoreError:
        for view, rows in wants.items():
            _lose(parts[view], rows)
        return False
    for (view, rows), found, ask, rules in zip(wants.items(), reading.parts, request.asks, request.rules, strict=True):
        is_current = (found.rows.event_time <= request.wall_us) & (found.rows.verdicts != Verdict.UNANSWERED)
        if is_witness:
            is_current &= (found.rows.verdicts != Verdict.MISSING) | ~_is_stored(parts[view])[rows]
        _lose(parts[view], rows[~is_current])
        current = np.flatnonzero(is_current)
        walk = Walk(ask.only(current))
        walk.heard(walk.index, Part(found.rows.take(current), origin=int(Origin.PRIMARY)), rules)
        _take(parts[view], rows[current], walk, rules, has_default=view in request.defaults)
    return True


def _take(part: Part, rows: Index, walk: Walk, rules: Rules, *, has_default: bool) -> None:
    """Put what rows have become after a clean answer.

    Rows that it leaves open go on to the sources after it. One of those has served them already, or none is known to
    have anything, unless there are none.
    """
    online = (part.origin[rows] == Origin.PRIMARY) | (part.origin[rows] == Origin.REPLICA)  # type: ignore[index]
    is_served = online & (part.status[rows] == Status.PRESENT)  # type: ignore[index]
    is_last = len(rules.online) == 1 and not rules.local
    nothing = (part.origin[rows] == Origin.NONE) | (part.origin[rows] == Origin.DEFAULT)  # type: ignore[index]
    over = ~walk.open | (is_last & nothing)
    settle(walk, np.flatnonzero(walk.open & over), [], rules)
    kept = ~over & is_served & (walk.rows.verdicts != Verdict.BURIED)
    part.cause[rows[kept]] = walk.cause[kept]  # type: ignore[index]
    _lose(part, rows[~over & ~kept])
    done = finish(walk, has_default=has_default, raises=rules.on_exhausted == "raise")
    at, took = rows[over], np.flatnonzero(over)
    part.rows.put(at, done.rows, took)
    for name in ("origin", "status", "cause"):
        getattr(part, name)[at] = getattr(done, name)[took]


def _lose(part: Part, rows: Index) -> None:
    """No clean row could be had: what was served is no reference either."""
    at = rows[~degraded(part)[rows]]
    part.origin[at] = Origin.NONE  # type: ignore[index]
    part.status[at] = Status.UNAVAILABLE  # type: ignore[index]


def _put(part: Part, rows: Index, clean: Rows, clean_rows: Index) -> None:
    part.rows.put(rows, clean, clean_rows)
    part.origin[rows] = Origin.PRIMARY  # type: ignore[index]
    part.status[rows] = Status.PRESENT  # type: ignore[index]
    part.cause[rows] = Cause.NONE  # type: ignore[index]
