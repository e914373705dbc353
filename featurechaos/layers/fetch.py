"""Innermost: one round trip to one source, decoded, ages judged, origin stamped."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from featurechaos.clock import Clock
from featurechaos.codec import Layout, Rows
from featurechaos.effects import Plan, Read, describe, note
from featurechaos.errors import StoreError
from featurechaos.model import Origin
from featurechaos.readings import Part, Reading, Request, causes_of, judge, rows_of
from featurechaos.stores import Answer, Partial

_ASK_AGAIN_S = 10.0
_AFTER_ERROR_S = 0.5
_MOST_UNKNOWN = 1024
_NOTHING: frozenset[int] = frozenset()


class Fetch:
    """Read every ask of a request from its source.

    Rows of another layout are read by name; a layout not met before is fetched once, in the same
    deadline, so that a rolling schema change never costs a row. Where it can't be had, its rows are CORRUPT
    and all others are served as they were read.
    """

    def __init__(self, clock: Clock, roles: Mapping[str, Origin], known: dict[int, Layout]) -> None:
        self._clock, self._known = clock, known
        self._origins = {source: int(origin) for source, origin in roles.items()}
        self._not_before: dict[int, float] = {}

    def __call__(self, request: Request) -> Plan[Reading]:
        if (head := request.head) is None:
            answers: list[Answer] = yield Read(request.source, request.asks, request.until)
        else:
            answers = head.take()
        decoded, unknown = self._decoded(request, answers)
        if unknown and (yield from self._learned(request, self._worth_asking(unknown))):
            decoded, _ = self._decoded(request, answers)
        origin, wall_us = self._origins[request.source], request.wall_us
        parts = []
        for rows, rules in zip(decoded, request.rules, strict=True):
            judge(rows, rules, wall_us)
            parts.append(Part(rows, origin=origin))
        reading = Reading(parts)
        for part, answer in zip(parts, answers, strict=True):
            if type(answer) is Partial:
                part.cause, reading.is_partial = causes_of(answer, len(part)), True
        return reading

    def _decoded(self, request: Request, answers: list[Answer]) -> tuple[list[Rows], frozenset[int]]:
        """The rows of every ask, and the schema hashes among them that nobody has described yet."""
        decoded, unknown = [], _NOTHING
        for ask, answer in zip(request.asks, answers, strict=True):
            rows, strange = rows_of(ask, answer, self._known)
            decoded.append(rows)
            if strange:
                unknown |= strange
        return decoded, unknown

    def _learned(self, request: Request, hashes: list[int]) -> Plan[bool]:
        """Ask how rows of these hashes are laid out; whether any is readable now."""
        if not hashes:
            return False
        wait_s, reason = _ASK_AGAIN_S, "nobody described it"
        found: dict[int, Layout] = {}
        try:
            found = yield from describe(request, request.asks[0].view.project, hashes)
        except StoreError as error:  # That a source failed once says nothing of the layout.
            wait_s, reason = _AFTER_ERROR_S, str(error)
        if unknown := sorted(set(hashes) - set(found)):
            self._not_before.update(dict.fromkeys(unknown, self._clock.monotonic() + wait_s))
            yield from note("schema.unknown", request.source, hashes=unknown, reason=reason)
        if found:
            self._known.update(found)
            yield from note("schema.learned", request.source, hashes=sorted(found))
        return bool(found)

    def _worth_asking(self, hashes: frozenset[int]) -> list[int]:
        """A layout that was asked for in vain is not asked for again at once: it would cost every read a trip.

        Reads that meet a layout while another is still asking ask for themselves.
        """
        now = self._clock.monotonic()
        if len(self._not_before) > _MOST_UNKNOWN:
            self._not_before.clear()
        return [h for h in hashes if now >= self._not_before.get(h, -inf)]
