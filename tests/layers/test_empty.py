"""A source that answers without its data: what contradicts it, when it is judged, and what becomes of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

from featurechaos.effects import Next, Note, Read, stack
from featurechaos.layers.breaker import Breaker, Limits, State
from featurechaos.layers.empty import Emptiness, Empty, Watch
from featurechaos.layers.failover import Failover
from featurechaos.layers.fallback import Fallback
from featurechaos.layers.remember import Remember
from featurechaos.memory import Keep, LastKnown
from featurechaos.model import Cause, Origin, Status
from featurechaos.readings import Part, Rules
from featurechaos.testing import ManualClock, MemoryStore, Told, play
from tests.layers.kit import add_rows, bury, fetch, request_of, rows_of, values_of

LIMITS = Emptiness(share=0.1, min_rows=100, window_s=10)
KEYS = range(1000)
VALUES = {key: float(key) for key in KEYS}
EVERY_S = 0.01


class House:
    """A primary with 1000 rows behind every layer that has a say in this, read for a few rows at a time."""

    def __init__(
        self, *, local: Sequence[str] = (), breaks: bool = False, expire_s: float | None = None, **rules: Any
    ) -> None:
        self.clock = ManualClock()
        self.memory = LastKnown(self.clock, {"v": Keep(900, 8000)}, aside_s=LIMITS.window_s)
        self.rules = Rules(**({"online": ("primary",), "local": tuple(local)} | rules))
        self.sources: dict[str, Any] = {"primary": rows_of(self.clock, VALUES), "second": MemoryStore()}
        self.random = Random(7)
        fetched = fetch(self.clock)
        expires = {} if expire_s is None else {"primary": int(expire_s * 1e6)}
        self.empty = Empty(
            self.clock,
            LIMITS,
            sources=("primary", "second"),
            memory=self.memory,
            local=fetched,
            expire_us=expires,
        )
        timeouts = {"primary": 0.015, "second": 0.015}
        self.breaker = Breaker(self.clock, Limits(min_calls=10), timeouts=timeouts, rng=Random(7))
        layers: list[Any] = [Fallback(self.memory, fetched), Failover(), self.empty, Remember(self.memory)]
        if breaks:
            layers.insert(2, self.breaker)
        self.plan: Next = stack(layers, fetched)
        self.told = Told()

    def read(self, *keys: int, **how: Any) -> Part:
        self.clock.advance(EVERY_S)
        self.told = play(self.plan(request_of(self.clock, keys, rules=self.rules, **how)), self.sources, self.clock)
        assert self.told.error is None
        part = self.told.result.parts[0]
        assert isinstance(part, Part)
        return part

    def some(self, count: int = 5) -> Part:
        """Rows drawn from those known, as users ask for them."""
        return self.read(*self.random.sample(KEYS, count))

    def warm(self) -> None:
        self.read(*KEYS)

    def flush(self, share: float = 1.0) -> None:
        """The source comes back without this share of its rows."""
        kept = [key for key in KEYS if key >= share * len(KEYS)]
        self.sources["primary"] = rows_of(self.clock, {key: VALUES[key] for key in kept})

    @property
    def state(self) -> State:
        return self.breaker.gates["primary"].state

    @property
    def is_empty(self) -> bool:
        return self.empty.watches["primary"].is_empty


def facts(part: Part) -> set[tuple[Origin, Status, Cause]]:
    columns = [np.broadcast_to(each, len(part)).tolist() for each in (part.origin, part.status, part.cause)]
    return {(Origin(origin), Status(status), Cause(cause)) for origin, status, cause in zip(*columns, strict=True)}


NOT_FOUND = (Origin.PRIMARY, Status.NOT_FOUND, Cause.NONE)
FOUND = (Origin.PRIMARY, Status.PRESENT, Cause.NONE)


def not_found_before(house: House, most: int = 100) -> int:
    """Read on until the source is judged; how many rows were told NOT_FOUND till then."""
    told = 0
    for _ in range(most):
        part = house.some()
        if house.is_empty:
            return told
        told += int((np.broadcast_to(part.status, len(part)) == Status.NOT_FOUND).sum())
    pytest.fail(f"not judged after {told} rows")


def test_rows_that_are_there_cost_no_look_at_the_local_tiers() -> None:
    house = House(local=("standby",))
    house.sources["standby"] = ZeroDivisionError()
    house.warm()

    for _ in range(50):
        assert facts(house.some()) == {FOUND}

    assert house.told.effects == house.told.effects[:1]
    assert house.empty.watches["primary"].known == 1000 + 250


@pytest.mark.parametrize("evidence", ["last known", "snapshot"])
def test_a_flushed_source_is_judged_within_the_rows_it_takes(evidence: str) -> None:
    house = House(local=("standby",), remembers=evidence == "last known")
    house.sources["standby"] = rows_of(house.clock, VALUES if evidence == "snapshot" else {}, age_s=100)
    house.warm()
    house.flush()

    before = not_found_before(house)
    notes, part = house.told.notes, house.some()

    assert before <= LIMITS.min_rows + 20
    assert notes == ["source.emptied", "source.failed"]
    origin = Origin.LAST_KNOWN if evidence == "last known" else Origin.SNAPSHOT
    assert facts(part) == {(origin, Status.PRESENT, Cause.EMPTY)}
    assert "source.emptied" not in house.told.notes, "told once"


def test_the_answer_that_shows_it_is_not_believed_either() -> None:
    house = House()
    house.warm()
    house.flush()
    part = house.some()
    while not house.is_empty:
        part = house.some()

    assert facts(part) == {(Origin.LAST_KNOWN, Status.PRESENT, Cause.EMPTY)}


def test_rows_said_missing_before_the_judgement_are_served_after_it() -> None:
    house = House()
    house.warm()
    house.flush()

    first = house.read(1, 2, 3)
    while not house.is_empty:
        house.some()
    again = house.read(1, 2, 3)

    assert facts(first) == {NOT_FOUND}
    assert values_of(again) == [1.0, 2.0, 3.0]
    assert facts(again) == {(Origin.LAST_KNOWN, Status.PRESENT, Cause.EMPTY)}


def test_until_it_is_judged_a_missing_row_is_forgotten() -> None:
    house = House()
    house.warm()
    house.flush()
    house.read(1)

    assert house.memory.find("v", [b"1"]) == [None]
    assert house.memory.evidence("v", [b"1"]) != [None]


def test_it_is_told_what_it_lacks() -> None:
    house = House()
    house.warm()
    house.flush()
    not_found_before(house)

    note = next(effect for effect in house.told.effects if isinstance(effect, Note))

    assert (note.name, note.about) == ("source.emptied", "primary")
    assert note.fields == {"reason": "it lacks 5 of 5 rows that exist"}


def test_while_all_is_well_only_some_of_what_is_missing_is_looked_up() -> None:
    house = House(local=("standby",), remembers=False)
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    reads = 0
    for key in range(2000, 2160):
        house.read(key)
        reads += house.told.reads.count("standby")
    house.sources["standby"] = rows_of(house.clock, dict.fromkeys(range(3000, 4000), 1.0), age_s=100)
    sooner = [house.read(key) and house.told.reads.count("standby") for key in range(3000, 3050)]

    assert reads == 160 // 16
    assert sooner == [0] * 15 + [1] * 35, "once one is contradicted, all are looked up"


def test_rows_that_nobody_knows_are_simply_not_found() -> None:
    house = House(local=("standby",))
    house.sources["standby"] = rows_of(house.clock, VALUES)
    house.warm()

    for key in range(2000, 2300):
        assert facts(house.read(key)) == {NOT_FOUND}

    assert not house.is_empty


@pytest.mark.parametrize(("lost", "is_judged"), [(0.05, False), (0.2, True)])
def test_a_few_rows_deleted_by_hand_are_no_loss_of_data(lost: float, is_judged: bool) -> None:
    house = House(local=("standby",))
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.warm()
    for _ in range(200):
        house.some(20)

    house.flush(lost)
    for _ in range(400):
        house.some(20)

    assert house.is_empty is is_judged


def test_rows_deleted_by_us_are_no_loss_of_data() -> None:
    house = House(local=("standby",))
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.warm()
    bury(house.sources["primary"], house.clock, list(KEYS))

    for _ in range(50):
        assert facts(house.some()) == {NOT_FOUND}

    assert not house.is_empty


def test_a_snapshot_that_has_them_buried_or_too_old_contradicts_nothing() -> None:
    house = House(local=("standby",), remembers=False, hard_us=50_000_000)
    standby = rows_of(house.clock, {key: VALUES[key] for key in KEYS if key % 2}, age_s=100)
    house.sources["standby"] = bury(standby, house.clock, [key for key in KEYS if not key % 2])
    house.flush()

    for _ in range(50):
        house.some()

    assert not house.is_empty


def test_rows_it_has_are_served_and_only_those_it_lacks_go_on() -> None:
    house = House(local=("standby",))
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.flush(0.3)
    while not house.is_empty:
        house.some(20)

    part = house.read(1, 900, 901, 902, 5000)

    assert values_of(part) == [1.0, 900.0, 901.0, 902.0, None]
    assert part.origin.tolist() == [Origin.SNAPSHOT, *[Origin.PRIMARY] * 3, Origin.NONE]  # type: ignore[union-attr]
    assert part.cause.tolist() == [Cause.EMPTY, *[Cause.NONE] * 3, Cause.EMPTY]  # type: ignore[union-attr]
    assert part.status.tolist()[-1] == Status.UNAVAILABLE, "it is in no position to say so"  # type: ignore[union-attr]


def test_filled_again_it_is_believed_again_and_that_is_told_once() -> None:
    house = House(local=("standby",))
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.warm()
    house.flush()
    while not house.is_empty:
        house.some()

    house.flush(0.0)
    notes = []
    for _ in range(60):
        assert facts(house.some()) == {FOUND}
        notes += house.told.notes

    assert not house.is_empty
    assert notes == ["source.refilled"]
    assert facts(house.read(5000)) == {NOT_FOUND}


def test_half_filled_it_stays_judged() -> None:
    house = House(local=("standby",))
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.flush()
    while not house.is_empty:
        house.some()

    house.flush(0.5)
    for _ in range(500):
        house.some(10)
    half_filled = house.is_empty
    house.flush(0.02)
    for _ in range(50):
        house.some(10)

    assert (half_filled, house.is_empty) == (True, False)


def test_little_traffic_is_enough_to_believe_it_again() -> None:
    house = House()
    house.warm()
    house.flush()
    not_found_before(house)

    house.flush(0.0)
    house.read(1)
    soon = house.is_empty
    house.clock.advance(LIMITS.window_s)
    house.read(1)

    assert soon
    assert not house.is_empty


def test_little_traffic_that_lacks_a_few_rows_is_enough_too() -> None:
    house = House(local=("standby",))
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.flush()
    while not house.is_empty:
        house.some()

    house.flush(0.01)
    for second in range(60):
        house.clock.advance(1.0)
        house.read(*range(100, 115), 0 if second % 2 else 116)
        if not house.is_empty:
            break

    assert not house.is_empty


def test_a_second_source_asked_only_for_what_the_first_lacks_is_not_judged_by_it() -> None:
    house = House(online=("primary", "second"), local=("standby",), on_missing="fallback")
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.sources["second"] = rows_of(house.clock, {key: VALUES[key] for key in KEYS if key >= 50})
    house.flush(0.05)

    for _ in range(300):
        house.some(20)

    assert not house.is_empty
    assert not house.empty.watches["second"].is_empty
    assert house.empty.watches["second"].known == 0


def test_a_second_source_asked_for_what_the_first_could_not_answer_is_judged() -> None:
    house = House(online=("primary", "second"), local=("standby",))
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.sources["primary"] = iter(())  # no turns: unavailable

    for _ in range(26):
        house.some()

    assert house.empty.watches["second"].is_empty
    assert facts(house.some()) == {(Origin.SNAPSHOT, Status.PRESENT, Cause.REFUSED)}


def test_where_redis_lets_rows_expire_only_younger_copies_contradict() -> None:
    house = House(local=("standby",), expire_s=60, remembers=False)
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.flush()
    for _ in range(50):
        house.some()
    by_older = house.is_empty

    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=30)
    for _ in range(26):
        house.some()

    assert not by_older
    assert house.is_empty


def test_what_is_looked_up_of_a_large_answer_is_bounded() -> None:
    house = House(local=("standby",), remembers=False)
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.flush(0.5)

    house.read(*KEYS)

    looked_up = [effect for effect in house.told.effects if isinstance(effect, Read) and effect.source == "standby"]
    assert len(looked_up[0].asks[0].keys) <= 64
    assert house.empty.watches["primary"].known == 1000, "each stands for as many as were passed over"
    assert house.is_empty


def test_a_local_tier_that_fails_contradicts_nothing() -> None:
    house = House(local=("standby",), remembers=False)
    house.sources["standby"] = iter(())
    house.flush()

    assert facts(house.some()) == {NOT_FOUND}


def test_the_breaker_hears_it_and_while_it_is_open_the_cause_is_still_told() -> None:
    house = House(local=("standby",), breaks=True)
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.flush()
    part = house.some()
    while house.state is not State.OPEN:
        part = house.some()

    assert facts(part) == {(Origin.SNAPSHOT, Status.PRESENT, Cause.EMPTY)}
    part = house.some()
    assert house.told.reads == ["standby"], "not asked"
    assert facts(part) == {(Origin.SNAPSHOT, Status.PRESENT, Cause.EMPTY)}


def test_probes_that_find_nothing_keep_it_away_and_probes_that_find_rows_bring_it_back() -> None:
    house = House(local=("standby",), breaks=True)
    house.sources["standby"] = rows_of(house.clock, VALUES, age_s=100)
    house.flush()
    states = []
    for _ in range(1000):
        house.some()
        states.append(house.state)
    assert set(states) == {State.CLOSED, State.OPEN}
    assert State.CLOSED not in states[100:]

    house.flush(0.0)
    begun = house.clock.monotonic()
    while house.state is not State.CLOSED:
        house.some()

    assert house.clock.monotonic() - begun <= 1.0 + 1.0 + 2.0 + 0.1
    assert facts(house.some()) == {FOUND}


def test_after_a_time_without_misses_an_emptied_source_is_known_as_soon() -> None:
    """The window of a busy source is full of good rows: that must not delay the judgement of the last ones."""
    watch, now = Watch(LIMITS), 0.0
    for _ in range(10_000):
        now += 0.001
        watch.hear(now, found=9, lacked=0)
        if now % 1 < 0.001:
            watch.hear(now, found=9, lacked=1)

    told = 0
    while not watch.is_empty:
        now += 0.001
        watch.hear(now, found=0, lacked=5)
        told += 5

    assert told <= LIMITS.min_rows * 2


@pytest.mark.parametrize(("share", "is_judged"), [(0.09, False), (0.11, True)])
def test_the_share_is_of_the_window(share: float, is_judged: bool) -> None:
    watch, random = Watch(LIMITS), Random(7)
    for step in range(40_000):
        lacked = int(random.random() < share)
        if watch.hear(step * 0.0001, found=1 - lacked, lacked=lacked):
            break

    assert watch.is_empty is is_judged


def test_what_is_older_than_the_window_no_longer_counts() -> None:
    watch = Watch(LIMITS)
    for step in range(99):
        watch.hear(step * 0.01, found=0, lacked=1)
    for step in range(300):
        watch.hear(11 + step * 0.01, found=1, lacked=0)
    watch.hear(14.0, found=0, lacked=1)

    assert not watch.is_empty


def test_few_rows_are_not_judged_by() -> None:
    watch = Watch(LIMITS)

    assert not watch.hear(0.0, found=0, lacked=LIMITS.min_rows - 1)
    assert watch.hear(0.1, found=0, lacked=1)


def test_a_watch_stays_small() -> None:
    watch = Watch(LIMITS)
    for step in range(10_000):
        watch.hear(step * 0.01, found=99, lacked=1)

    assert len(watch._window) + len(watch._last) <= 30


def test_rows_written_meanwhile_are_not_replaced_by_what_was_kept_aside() -> None:
    house = House()
    house.warm()
    house.flush()
    house.read(1)
    house.sources["primary"] = add_rows(MemoryStore(), house.clock, {1: 111.0}, age_s=0.0)
    house.read(1)
    house.flush()
    not_found_before(house)

    assert values_of(house.read(1)) == [111.0]
