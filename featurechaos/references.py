"""The same request on clean features: what a pair compares a served response with.

The reference of a value fault is the reading before it, kept with the response. An injected outage owes one clean
read, off the request path, which feeds no breaker, budget, quantile or cache. Where the store itself is
gone, `impact.reference_source` is read. Rows that changed since the request are no reference any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from featurechaos.codec import Rows
from featurechaos.effects import Next, Plan
from featurechaos.errors import StoreError
from featurechaos.model import Cause, Origin, Status, Verdict
from featurechaos.readings import Flags, Index, Part, Reading, Request, Rules, spread
from featurechaos.response import Response

WITHIN_S = 1.0
"""How long a clean read may take: nobody waits for it."""


def reference(
    response: Response, fetch: Next, rules: Mapping[str, Rules], *, witness: str | None, now: float
) -> Plan[Response]:
    """The response on clean features; `response` itself if what was served is clean.

    Rows of it that are still `degraded` have no reference: nothing clean could be had, or the store has moved on.
    """
    if not any(_is_touched(answer.part) for answer in response.answers.values()):
        return response
    parts: dict[str, Part] = {}
    owed: dict[str, list[tuple[str, Index]]] = {}
    for view, answer in response.answers.items():
        part = parts[view] = mended(answer.part)
        for source, rows in _owed(answer.part, part, rules[view], witness).items():
            owed.setdefault(source, []).append((view, rows))
    for source, wants in owed.items():
        request = Request(
            [response.answers[view].ask.only(rows) for view, rows in wants],
            [rules[view] for view, _ in wants],
            until=now + WITHIN_S,
            wall_us=response.wall_us,
            source=source,
        )
        yield from _read(request, [(parts[view], rows) for view, rows in wants], fetch)
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
    return not part.is_fresh or part.clean is not None or part.injected is not False


def _owed(served: Part, new: Part, rules: Rules, witness: str | None) -> dict[str, Index]:
    """Which rows still want a clean read, by the source to ask.

    A row that an injected outage kept from being read owes one, even where a replica covered it: the replica may lag.
    """
    unread = np.zeros(len(new), bool) if served.unread is None else served.unread
    owed = {}
    if witness is not None and (lost := np.flatnonzero(degraded(new) & ~unread)).size:
        owed[witness] = lost
    if (mine := np.flatnonzero(unread)).size and rules.online:
        new.origin[mine] = Origin.NONE  # type: ignore[index]
        new.status[mine] = Status.UNAVAILABLE  # type: ignore[index]
        owed[rules.online[0]] = mine
    return owed


def degraded(part: Part) -> Flags:
    """Rows that are not simply what an online source says."""
    online = (part.origin == Origin.PRIMARY) | (part.origin == Origin.REPLICA)
    return np.asarray(~(((part.status == Status.PRESENT) & online) | (part.status == Status.NOT_FOUND)))


def _read(request: Request, wants: Sequence[tuple[Part, Index]], fetch: Next) -> Plan[None]:
    """Read some rows clean and put them in their parts; a source that gives none leaves them as they are."""
    try:
        reading: Reading = yield from fetch(request)
    except StoreError:
        return
    for (part, rows), found in zip(wants, reading.parts, strict=True):
        _take(part, rows, found.rows, request.wall_us)


def _take(part: Part, rows: Index, found: Rows, wall_us: int) -> None:
    verdict = found.verdicts
    same = (verdict == Verdict.FRESH) & (found.event_time <= wall_us)
    missing = (verdict == Verdict.MISSING) | (verdict == Verdict.BURIED)
    _put(part, rows[same], found, np.flatnonzero(same))
    gone = rows[missing]
    part.rows.put(gone, Rows.blank(part.rows.layout, len(gone), Verdict.MISSING), np.arange(len(gone)))
    part.status[gone] = Status.NOT_FOUND  # type: ignore[index]
    part.origin[gone] = Origin.PRIMARY  # type: ignore[index]


def _put(part: Part, rows: Index, clean: Rows, clean_rows: Index) -> None:
    part.rows.put(rows, clean, clean_rows)
    part.origin[rows] = Origin.PRIMARY  # type: ignore[index]
    part.status[rows] = Status.PRESENT  # type: ignore[index]
    part.cause[rows] = Cause.NONE  # type: ignore[index]
