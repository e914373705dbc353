"""Old values, truly old: read from the dated snapshot of that age, not made up.

`visible=True` keeps the true old event time, so the view's ttl must catch it (a stopped pipeline).
`visible=False` puts the fresh event time on the old values (a stuck job that restamps its rows), so that only
pairs can see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from numbers import Real

import numpy as np

from featurechaos.codec import Rows
from featurechaos.model import Verdict
from featurechaos.readings import Flags, Part

EVENT_TIME_WORD = 2


@dataclass(frozen=True, slots=True)
class Stale:
    """Rows of `view` as they were known `age_s` ago."""

    view: str
    age_s: float
    visible: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.age_s, Real) and 0 < self.age_s < inf):
            msg = f"Stale wants age_s above 0, and an end, got {self.age_s!r}"
            raise ValueError(msg)

    @property
    def name(self) -> str:
        return f"stale:{self.view}"

    def changed(self, part: Part, hit: Flags, old: Rows) -> Flags:
        """Put old rows where `hit`; the rows that had none stay as they were.

        Returns:
            bool (n,), the rows changed. `part.clean` keeps those rows as they were before.
        """
        fresh = part.rows.verdicts == Verdict.FRESH
        struck: Flags = np.asarray(hit & fresh & (old.verdicts == Verdict.FRESH))
        index = np.flatnonzero(struck)
        if not len(index):
            return struck
        if part.clean is None:
            part.clean = Rows.blank(part.rows.layout, len(part), Verdict.UNANSWERED)
            part.clean.verdict = part.clean.verdicts
        unkept = index[part.clean.verdicts[index] == Verdict.UNANSWERED]
        part.clean.put(unkept, part.rows, unkept)
        restamped = part.rows.event_time[index].copy()
        part.rows.verdict = part.rows.verdicts
        part.rows.blobs = None
        part.rows.put(index, old, index)
        if not self.visible:
            part.rows.words[index, EVENT_TIME_WORD] = restamped.view(np.uint64)
        return struck
