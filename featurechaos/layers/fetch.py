"""Innermost: one round trip to one source, decoded, ages judged, origin stamped."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from featurechaos.clock import Clock
from featurechaos.codec import Layout, Rows
from featurechaos.effects import Plan, describe, note, read
from featurechaos.model import Origin
from featurechaos.readings import Part, Reading, Request, judge, rows_of
from featurechaos.stores import Answer

_ASK_AGAIN_S = 10.0
_MOST_UNKNOWN = 1024


class Fetch:
    """Read every ask of a request from its source.

    Rows of another layout are read by name; a layout not met before is fetched once, in the same
    deadline, so that a rolling schema change never costs a row.
    """

    def __init__(self, clock: Clock, roles: Mapping[str, Origin], known: dict[int, Layout]) -> None:
        self._clock, self._roles, self._known = clock, roles, known
        self._asked_at: dict[int, float] = {}

    def __call__(self, request: Request) -> Plan[Reading]:
        answers = yield from read(request)
        decoded = self._decoded(request, answers)
        missing = frozenset().union(*(unknown for _, unknown in decoded))
        if missing and (hashes := self._worth_asking(missing)):
            found = yield from describe(request, request.asks[0].view.project, hashes)
            self._asked_at.update(dict.fromkeys(set(hashes) - set(found), self._clock.monotonic()))
            if found:
                self._known.update(found)
                yield from note("schema.learned", request.source, hashes=sorted(found))
                decoded = self._decoded(request, answers)
        origin = int(self._roles[request.source])
        parts = []
        for (rows, _), rules in zip(decoded, request.rules, strict=True):
            judge(rows, rules, request.wall_us)
            parts.append(Part(rows, origin=origin))
        return Reading(parts)

    def _decoded(self, request: Request, answers: list[Answer]) -> list[tuple[Rows, frozenset[int]]]:
        return [rows_of(ask, answer, self._known) for ask, answer in zip(request.asks, answers, strict=True)]

    def _worth_asking(self, hashes: frozenset[int]) -> list[int]:
        """A layout nobody could describe is not asked for again at once: it would cost every read a trip.

        Only an answer counts as nobody: reads that meet a layout while another is still asking, or after a
        description that came too late, ask for themselves.
        """
        now = self._clock.monotonic()
        if len(self._asked_at) > _MOST_UNKNOWN:
            self._asked_at.clear()
        return [h for h in hashes if now - self._asked_at.get(h, -inf) >= _ASK_AGAIN_S]
