"""What one bench was and saw: everything that numbers, verdict and page are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from featurechaos.bench.cold import Cold
from featurechaos.bench.stalls import Span
from featurechaos.drills.history import History

MAY_LOSE = 0.01
"""The share of rows that may come without a stored value while something is broken, unless said otherwise."""


@dataclass(frozen=True, slots=True)
class Broken:
    """One thing that was broken: a source, what it was then (`state`: gone, frozen), and how that was done."""

    source: str
    state: str
    origin: str
    fault: str
    detail: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked, how often, and how it is judged. `settle_s`: how long the policy may take to come back."""

    features: Sequence[str]
    entities: str
    rate_per_s: float
    batch: int
    for_s: float
    seed: int
    deadline_s: float
    settle_s: float
    may_lose: float = MAY_LOSE
    broken: tuple[Broken, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One bench. `cold` by when the process was started: `before`, `during`.

    `stalls`, when the machine was busy elsewhere, are in seconds since the history began; `image_age_s` is how old
    the image behind each view's local copy was at the end, by view.
    """

    asked: Asked
    history: History
    cold: Mapping[str, Cold] = field(default_factory=dict)
    stalls: tuple[Span, ...] = ()
    image_age_s: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
