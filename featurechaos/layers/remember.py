"""Keep what the online sources answer, for the day they do not. What is gone, `Fallback` forgets."""

from __future__ import annotations

import numpy as np

from featurechaos.codec import seal
from featurechaos.effects import Next, Plan
from featurechaos.memory import LastKnown
from featurechaos.model import Verdict
from featurechaos.readings import Part, Reading, Request
from featurechaos.stores import Ask

_UNANSWERED, _FRESH = int(Verdict.UNANSWERED), int(Verdict.FRESH)
_EXPIRED, _PAST = int(Verdict.EXPIRED), int(Verdict.PAST)


class Remember:
    """Keep what each online source answers; rows that a fault changed are not remembered.

    An answer that a fault only made late is as true as any.
    """

    def __init__(self, memory: LastKnown) -> None:
        self._memory = memory

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]:
        reading = yield from inner(request)
        for ask, rules, part in zip(request.asks, request.rules, reading.parts, strict=True):
            if rules.remembers:
                self._take_in(ask, part)
        return reading

    def _take_in(self, ask: Ask, part: Part) -> None:
        rows, view, clean = part.rows, ask.view.base, part.clean
        if clean is None and rows.blobs is not None:
            self._memory.keep((view,), ask.keys.ids, (rows.blobs,), own=ask.keys.own)
            return
        verdict = rows.verdicts
        true = np.ones(len(rows), bool) if clean is None else clean.verdicts == _UNANSWERED
        good = np.flatnonzero(true & ((verdict == _FRESH) | (verdict == _EXPIRED) | (verdict == _PAST)))
        if len(good):
            own = ask.keys.own[good]
            self._memory.keep((view,), [ask.keys.ids[i] for i in good], (seal(rows.take(good), own),), own=own)
