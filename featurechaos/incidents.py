"""Incidents, with an id that every line of them bears: from the moment a source is not simply asked until it is again.

A policy that was refused is one too, until another is taken.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from featurechaos.locks import Locked

log = logging.getLogger("featurechaos")

MOST_OVER = 20
MOST_REQUESTS = 200


@dataclass(frozen=True, slots=True)
class Change:
    """What a note means for its source: the trouble it is about, the state it leaves, whether the trouble is over.

    `kind` is what the log calls whatever the note is about.
    """

    trouble: str
    state: str
    is_over: bool = False
    kind: str = "source "


CHANGES: Mapping[str, Change] = {
    "breaker.opened": Change("breaker", "open"),
    "breaker.ramping": Change("breaker", "ramping"),
    "breaker.closed": Change("breaker", "closed", is_over=True),
    "source.emptied": Change("data", "without its data"),
    "source.refilled": Change("data", "filled again", is_over=True),
    "source.drained": Change("order", "drained"),
    "source.held": Change("order", "held", is_over=True),
    "source.released": Change("order", "released", is_over=True),
    "policy.refused": Change("policy", "refused", kind=""),
    "policy.reloaded": Change("policy", "reloaded", is_over=True, kind=""),
}


@dataclass(slots=True)
class Incident:
    """One trouble after another of one source, as one story. Times are seconds since the epoch."""

    id: str
    source: str
    began: float
    reason: str
    state: str
    ended: float | None = None

    def told(self) -> dict[str, Any]:
        """As plain values."""
        ended = None if self.ended is None else iso(self.ended)
        return {
            "id": self.id, "source": self.source, "state": self.state, "reason": self.reason, "began": iso(self.began),
            "ended": ended,
        }  # fmt: skip


class Incidents(Locked):
    """The incidents of one client, and the requests that were served degraded.

    Kept: one open incident a source, the last 20 that are over, the ids of the last 200 requests.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        super().__init__()
        self._wall = wall
        self.open: dict[str, Incident] = {}
        self.over: deque[Incident] = deque(maxlen=MOST_OVER)
        self._troubles: dict[str, set[str]] = {}
        self._requests: deque[tuple[str, int]] = deque(maxlen=MOST_REQUESTS)

    def hear(self, name: str, about: str, fields: Mapping[str, Any]) -> None:
        """Take in a note. A change of a source's state is one line in the log; a failed probe is none."""
        change = CHANGES.get(name)
        if change is None or fields.get("again"):
            return
        reason = str(fields.get("reason", ""))
        reason = reason if reason.isprintable() else repr(reason)  # it begins no line of its own
        with self._lock:
            incident = self._changed(about, change, reason)
        level = logging.INFO if change.is_over else logging.WARNING
        told = "" if incident is None else f" (incident {incident.id})"
        log.log(level, "%s%s: %s: %s%s", change.kind, about, change.state, reason, told)

    def degraded(self, request_id: str, wall_us: int) -> None:
        """A request was served degraded."""
        self._requests.append((request_id, wall_us))

    def requests(self) -> list[dict[str, Any]]:
        """The last requests served degraded, oldest first."""
        return [{"request_id": one, "at": iso(wall_us / 1e6)} for one, wall_us in list(self._requests)]

    def told(self) -> list[dict[str, Any]]:
        """Open incidents first, then those that are over, newest first."""
        with self._lock:
            return [one.told() for one in (*self.open.values(), *reversed(self.over))]

    def _changed(self, source: str, change: Change, reason: str) -> Incident | None:
        """The incident a change belongs to: begun by a first trouble, over with the last."""
        troubles, now = self._troubles.setdefault(source, set()), self._wall()
        incident = self.open.get(source)
        if change.is_over:
            troubles.discard(change.trouble)
        else:
            troubles.add(change.trouble)
        if incident is None and troubles:
            name = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{source}-{secrets.token_hex(2)}"
            incident = self.open[source] = Incident(name, source, now, reason, change.state)
        elif incident is not None:
            incident.state, incident.reason = change.state, reason
            if not troubles:
                incident.ended = now
                self.over.append(self.open.pop(source))
        return incident


def iso(seconds: float) -> str:
    """A time as text: 2026-01-31T12:00:00.250Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
