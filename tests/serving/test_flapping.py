"""A client with a replica whose primary comes and goes, under load: who answers, and how many wait in vain before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from featurechaos import FeatureClient, Origin
from featurechaos.engine import run
from featurechaos.errors import StoreTimeout
from featurechaos.stores import Answer, Ask
from featurechaos.testing import ManualClock, MemoryStore
from tests.serving.kit import CLOCK_S, CONFIG, NOW, write

SOURCES = {
    "primary": {"type": "memory", "role": "primary", "timeout_s": 0.015},
    "replica": {"type": "memory", "role": "replica", "timeout_s": 0.015},
}
POLICY = {"deadline_s": 0.050, "retry": None, "last_known": None}
EVERY_S, HALF_S = 0.02, 0.5


class Flapping(MemoryStore):
    """A primary that says nothing within a reader's time while it is bad."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__("primary")
        self.clock, self.is_bad, self.in_vain = clock, False, 0

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        if self.is_bad:
            self.in_vain += 1
            self.clock.advance(until - self.clock.monotonic())
            raise StoreTimeout("late")
        return super().read(asks, until, as_of_us=as_of_us)


class Load:
    """A request each 20 ms on a clock turned by hand, and a keeper's probes when they are due."""

    def __init__(self) -> None:
        self.clock = ManualClock(CLOCK_S)
        self.client = FeatureClient.from_config(CONFIG | {"sources": SOURCES, "policy": POLICY}, clock=self.clock)
        breaker = self.client._serving.breaker
        assert breaker is not None
        breaker.gates["primary"]._rng = Random(7)
        write(self.client, k=[1], f=[1.0], g=[1], at=NOW)
        self.primary = Flapping(self.clock)
        self.primary.rows = self.client.store("primary").rows  # type: ignore[attr-defined]
        self.client._world.stores["primary"] = self.primary  # type: ignore[index]
        replica: Any = self.client.store("replica")
        replica.rows = self.primary.rows
        self.told: list[tuple[float, bool]] = []
        """When each answer came, and whether it was the primary's."""
        self.in_vain = 0

    def run(self, seconds: float, *, bad_s: float, good_s: float) -> None:
        """Bad and good in turns, bad first."""
        begun = self.clock.monotonic()
        due = begun
        while due < begun + seconds:
            self.primary.is_bad = (due - begun) % (bad_s + good_s) < bad_s
            self._probe()
            had = self.primary.in_vain
            response = self.client.get_online_features(["v:f"], {"k": [1]})
            (origin,) = response.provenance("v").origin.tolist()
            assert origin in (Origin.PRIMARY, Origin.REPLICA)
            self.told.append((self.clock.monotonic(), origin == Origin.PRIMARY))
            self.in_vain += self.primary.in_vain - had
            due += EVERY_S
            self.clock.advance(max(0.0, due - self.clock.monotonic()))

    def _probe(self) -> None:
        serving = self.client._serving
        for source in serving.to_probe():
            run(serving.probe(source), self.client._world)

    @property
    def switches(self) -> int:
        """How often most answers of a half second came from another than of the one before."""
        halves: dict[int, list[bool]] = {}
        for at, is_primary in self.told:
            halves.setdefault(int(at / HALF_S), []).append(is_primary)
        most = [sum(half) / len(half) >= 0.5 for half in halves.values()]
        return sum(one != before for before, one in pairwise(most))


@pytest.mark.parametrize("healthy_s", [3, 30])
def test_one_second_bad_and_one_good_for_twenty_is_left_at_once_and_taken_back_after(healthy_s: int) -> None:
    load = Load()
    load.run(healthy_s, bad_s=0, good_s=1)

    load.run(20, bad_s=1, good_s=1)
    load.run(6, bad_s=0, good_s=1)

    assert load.switches == 2
    assert load.told[-1][1], "it is the primary's again"
    assert load.in_vain <= HALF_S / EVERY_S + 2, "of users, until the gate opened"
