"""A feature is added and another removed while everybody reads and writes: no row is ever CORRUPT for it.

Generations of the code: 1 has {a, b}, 2 adds c, 3 drops b. Writers and readers of two of them run side by side, as in a
rolling deployment; then forward to the next, and back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import pytest

from featurechaos import FeatureClient, Origin, Status
from featurechaos.clock import SystemClock
from tests.live.conftest import World, pause, refreshed

pytestmark = pytest.mark.live

FEATURES = {1: ["a", "b"], 2: ["a", "b", "c"], 3: ["a", "c"]}
DTYPES = {"a": "int64", "b": "float32", "c": "string"}
KEYS = 60
STEP_S = 1.2
KEEP_S = 4.0


def view(generation: int) -> dict[str, Any]:
    features = {name: {"dtype": DTYPES[name]} for name in FEATURES[generation]}
    return {"name": "score", "join_keys": {"key": "int64"}, "features": features, "ttl_s": None}


def table(generation: int, keys: Any, turn: int) -> dict[str, Any]:
    """Rows that say who wrote them and when: a tells all, b and c repeat it."""
    a = (np.asarray(keys) * 100_000 + turn) * 10 + generation
    columns = {"a": a, "b": (a % 65_536).astype(np.float32), "c": [f"c{one}" for one in a.tolist()]}
    when = np.full(len(a), int(SystemClock().wall() * 1e6)).astype("M8[us]")
    return {"key": keys, **{name: columns[name] for name in FEATURES[generation]}, "event_timestamp": when}


@dataclass
class Seen:
    """What a reader of one generation met: (writer's generation, origin) of each row, and what was wrong."""

    met: set[tuple[int, int]] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    rows: int = 0

    def take(self, generation: int, keys: Any, response: Any) -> None:
        truth, columns, nulls = response.provenance("score"), response.columns, response.nulls
        self.rows += len(keys)
        if set(truth.status) != {Status.PRESENT}:
            self.wrong.append(f"statuses {sorted(set(truth.status.tolist()))}")
            return
        a = columns["a"]
        writer = a % 10
        self.met |= set(zip(writer.tolist(), truth.origin.tolist(), strict=True))
        self._claim("a is the key's", a // 1_000_000 == keys)
        for name, repeated in (("b", (a % 65_536).astype(np.float32)), ("c", np.array([f"c{one}" for one in a]))):
            if name not in FEATURES[generation]:
                continue
            there = np.array([name in FEATURES[int(one)] for one in writer])
            self._claim(f"{name} is null where its writer had none", nulls[name] == ~there)
            self._claim(f"{name} is what was written", columns[name][there] == repeated[there])

    def _claim(self, what: str, holds: Any) -> None:
        if not np.all(holds):
            self.wrong.append(f"{what}: {int((~np.asarray(holds)).sum())} rows not")


class Fleet:
    """Writers and readers at work: each of its generation, until told to stop."""

    def __init__(self, clients: dict[int, FeatureClient]) -> None:
        self.clients = clients
        self.seen = {generation: Seen() for generation in clients}
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._turn = 0

    def run(self, generations: Sequence[int], for_s: float) -> None:
        """Write and read with these generations side by side for a while."""
        self._stop.clear()
        jobs = [(work, one, Random(one)) for one in generations for work in (self._write, self._read, self._read)]
        threads = [threading.Thread(target=self._guarded, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        pause(for_s)
        self._stop.set()
        for thread in threads:
            thread.join()

    def _guarded(self, work: Callable[[int, Random], None], generation: int, rng: Random) -> None:
        try:
            while not self._stop.wait(0.01 * rng.uniform(0.5, 1.5)):
                work(generation, rng)
        except Exception as error:  # noqa: BLE001 - whatever it is, a reader or writer failed
            self.failed.append(f"generation {generation}: {error!r}")

    def _write(self, generation: int, rng: Random) -> None:
        self._turn += 1
        keys = np.array(rng.sample(range(KEYS), 10))
        self.clients[generation].write_to_online_store("score", table(generation, keys, self._turn))

    def _read(self, generation: int, rng: Random) -> None:
        keys = np.array([rng.randrange(KEYS) for _ in range(8)])
        self.seen[generation].take(generation, keys, self.answered(generation, keys))

    def answered(self, generation: int, keys: Any, *, deadline_s: float = 5.0) -> Any:
        features = [f"score:{name}" for name in FEATURES[generation]]
        return self.clients[generation].get_online_features(features, {"key": keys}, deadline_s=deadline_s)


def opened(world: World, generation: int, **policy: Any) -> FeatureClient:
    # A breaker that opens would send reads elsewhere, and a row served from elsewhere would hide a corrupt one.
    return world.client(world.config(views=[view(generation)], policy={"breaker": None} | policy))


def test_no_row_is_ever_corrupt_for_it(world: World, tell: Callable[[str], None]) -> None:
    clients = {generation: opened(world, generation) for generation in FEATURES}
    clients[1].write_to_online_store("score", table(1, np.arange(KEYS), 0))
    fleet = Fleet(clients)

    for generations in ((1,), (1, 2), (2,), (2, 3), (3, 1)):
        fleet.run(generations, STEP_S)

    assert fleet.failed == []
    assert {one: seen.wrong for one, seen in fleet.seen.items()} == {1: [], 2: [], 3: []}
    tell(f"{sum(seen.rows for seen in fleet.seen.values())} rows read in {5 * STEP_S:g} s by three generations")
    # Each has read rows of each it ran beside, all from the primary.
    primary = int(Origin.PRIMARY)
    assert {(1, primary), (2, primary)} <= fleet.seen[1].met
    assert {(1, primary), (2, primary), (3, primary)} <= fleet.seen[2].met
    assert {(2, primary), (3, primary), (1, primary)} <= fleet.seen[3].met


@pytest.mark.parametrize("tier", ["last known", "snapshot"])
def test_fallbacks_hold_older_and_newer_rows_by_name(tier: str, world: World) -> None:
    keys = np.arange(KEYS)
    writers = (1, 2, 3) if tier == "last known" else (1, 3)  # a hydration takes its second
    remembers = {"keep_s": KEEP_S} if tier == "last known" else None
    readers = tuple(FEATURES) if tier == "last known" else writers
    clients = {generation: opened(world, generation, last_known=remembers) for generation in readers}
    fleet = Fleet(clients)
    for writer in writers:
        if tier == "last known":
            pause(KEEP_S / 8 + 0.05)  # a row is not kept again while the one it has is that young
            clients[writer].write_to_online_store("score", table(writer, keys, writer))
            for reader in readers:
                assert set(fleet.answered(reader, keys).provenance("score").origin) == {Origin.PRIMARY}
        else:
            clients[writer].publish_snapshot("score", table(writer, keys, writer))
            for client in clients.values():
                refreshed(client)
        world.valkey.freeze()
        try:
            for reader in clients:
                response = fleet.answered(reader, keys, deadline_s=0.1)
                fleet.seen[reader].take(reader, keys, response)
        finally:
            world.valkey.thaw()

    origin = int(Origin.LAST_KNOWN if tier == "last known" else Origin.SNAPSHOT)
    assert {one: seen.wrong for one, seen in fleet.seen.items()} == {reader: [] for reader in readers}
    assert {one: seen.met for one, seen in fleet.seen.items()} == {
        reader: {(writer, origin) for writer in writers} for reader in readers
    }
