"""What is kept for the day the online sources do not answer, and how it is served then."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from featurechaos.codec import Layout, column
from featurechaos.effects import Next, stack
from featurechaos.errors import StoreTimeout, StoreUnavailable
from featurechaos.faults import Stale
from featurechaos.layers.failover import Failover
from featurechaos.layers.fallback import Fallback
from featurechaos.layers.remember import Remember
from featurechaos.memory import Keep, LastKnown
from featurechaos.model import Origin, Status
from featurechaos.readings import Part, Reading, Request, Rules
from featurechaos.testing import ManualClock, MemoryStore, play
from tests.layers.kit import VIEW, add_rows, bury, damage, fetch, request_of, rows_of, values_of, view_of

RULES = Rules(online=("primary", "second"), ttl_us=100_000_000, hard_us=1_000_000_000)


class House:
    """Failover and fallback over scripted sources, with a memory."""

    def __init__(self, *, keep_s: float = 80, max_rows: int = 800, **rules: Any) -> None:
        self.clock = ManualClock()
        self.memory = LastKnown(self.clock, {"v": Keep(keep_s, max_rows)})
        self.rules = replace(RULES, **rules)
        self.sources: dict[str, Any] = {"primary": MemoryStore(), "second": StoreUnavailable("none")}

    def plan(self, inner: Next | None = None) -> Next:
        fetched = fetch(self.clock)
        return stack(
            [Fallback(self.memory, fetched), Failover(), Remember(self.memory)], fetched if inner is None else inner
        )

    def read(self, *keys: int, inner: Next | None = None) -> Part:
        told = play(self.plan(inner)(request_of(self.clock, keys, rules=self.rules)), self.sources, self.clock)
        assert isinstance(told.result, Reading)
        return told.result.parts[0]

    def down(self) -> None:
        self.sources = {"primary": StoreTimeout("late"), "second": StoreUnavailable("gone")}

    def remembered(self, *keys: int) -> list[float | None]:
        """What is served when nobody answers."""
        self.down()
        return values_of(self.read(*keys))


def test_what_was_read_is_served_when_nobody_answers() -> None:
    house = House()
    house.sources["primary"] = rows_of(house.clock, {1: 1.0, 2: 2.0})
    house.read(1, 2)

    house.down()
    part = house.read(2, 1, 3)

    assert values_of(part) == [2.0, 1.0, None]
    assert part.origin.tolist() == [Origin.LAST_KNOWN, Origin.LAST_KNOWN, Origin.NONE]  # type: ignore[union-attr]
    assert part.status.tolist() == [Status.PRESENT, Status.PRESENT, Status.UNAVAILABLE]  # type: ignore[union-attr]


def test_good_rows_among_bad_ones_are_kept_and_expired_ones_too() -> None:
    house = House()
    primary = damage(rows_of(house.clock, {1: 1.0, 2: 2.0}), [2])
    house.sources["primary"] = add_rows(primary, house.clock, {3: 3.0}, age_s=500)
    house.read(1, 2, 3)

    house.down()
    part = house.read(1, 2, 3)

    assert values_of(part) == [1.0, None, 3.0]
    assert part.status.tolist() == [Status.PRESENT, Status.UNAVAILABLE, Status.EXPIRED]  # type: ignore[union-attr]


def test_text_is_kept_with_its_tail() -> None:
    house = House()
    view = view_of("v", f="string")
    house.sources["primary"] = rows_of(house.clock, {1: "one", 2: "two"}, view=view)  # type: ignore[dict-item]
    layout = Layout.of(view)
    request = request_of(house.clock, [1, 2, 3], view=view, rules=house.rules)
    plan = stack([Fallback(house.memory, fetch(house.clock)), Failover(), Remember(house.memory)], fetch(house.clock))

    play(plan(request), house.sources, house.clock)
    house.down()
    told = play(plan(request), house.sources, house.clock)

    assert layout.has_tail
    assert column(told.result.parts[0].rows, "f").tolist() == ["one", "two", None]


@pytest.mark.parametrize("gone", ["missing", "deleted"])
def test_what_does_not_exist_any_more_is_forgotten(gone: str) -> None:
    house = House()
    house.sources["primary"] = rows_of(house.clock, {1: 1.0, 2: 2.0})
    house.read(1, 2)

    empty = bury(rows_of(house.clock, {2: 2.0}), house.clock, [1] if gone == "deleted" else [])
    house.sources["primary"] = empty
    house.read(1, 2)

    assert house.remembered(1, 2) == [None, 2.0]


@pytest.mark.parametrize("on_missing", ["fallback", "default"])
def test_a_missing_row_that_is_not_accepted_is_not_forgotten(on_missing: str) -> None:
    house = House(on_missing=on_missing)
    house.sources["primary"] = rows_of(house.clock, {1: 1.0})
    house.read(1)
    house.sources["primary"] = MemoryStore()
    house.read(1)

    assert house.remembered(1) == [1.0]


@pytest.mark.parametrize("on_missing", ["accept", "fallback", "default"])
def test_a_deleted_row_is_forgotten_under_every_policy(on_missing: str) -> None:
    house = House(on_missing=on_missing)
    house.sources["primary"] = rows_of(house.clock, {1: 1.0})
    house.read(1)
    house.sources["primary"] = bury(MemoryStore(), house.clock, [1])
    house.sources["second"] = MemoryStore()

    assert values_of(house.read(1)) == [None]
    assert house.remembered(1) == [None]


def test_a_later_source_that_lacks_a_row_makes_nothing_forgotten() -> None:
    """The primary's row is damaged and the replica lags: the copy we have is the only good one."""
    house = House()
    house.sources["primary"] = rows_of(house.clock, {1: 1.0})
    house.read(1)
    house.sources = {"primary": damage(MemoryStore(), [1]), "second": MemoryStore()}

    part = house.read(1)

    assert values_of(part) == [1.0]
    assert part.origin.tolist() == [Origin.LAST_KNOWN]  # type: ignore[union-attr]


def test_what_a_fault_changed_is_not_remembered() -> None:
    house = House()
    house.sources["primary"] = rows_of(house.clock, {1: 1.0, 2: 2.0})
    fetched = fetch(house.clock)

    def changed(request: Request) -> Any:
        reading = yield from fetched(request)
        for part in reading.parts:
            hit = np.arange(len(part)) == 0
            Stale("v", 3600).changed(part, hit, part.rows.copy())
            part.injected = hit
        return reading

    house.read(1, 2, inner=changed)

    assert house.remembered(1, 2) == [None, 2.0]


def test_what_a_fault_only_made_late_is_remembered() -> None:
    """Else a drill that slows a source would empty the memory that the next one relies on."""
    house = House()
    house.sources["primary"] = rows_of(house.clock, {1: 1.0})
    fetched = fetch(house.clock)

    def touched(request: Request) -> Any:
        reading = yield from fetched(request)
        for part in reading.parts:
            part.injected = True
        return reading

    house.read(1, inner=touched)

    assert house.remembered(1) == [1.0]


def test_an_injected_absence_makes_nothing_forgotten() -> None:
    house = House()
    house.sources["primary"] = rows_of(house.clock, {1: 1.0})
    house.read(1)
    house.sources["primary"] = MemoryStore()
    fetched = fetch(house.clock)

    def touched(request: Request) -> Any:
        reading = yield from fetched(request)
        for part in reading.parts:
            part.injected = True
        return reading

    house.read(1, inner=touched)

    assert house.remembered(1) == [1.0]


def test_a_view_that_does_not_remember_keeps_nothing() -> None:
    house = House(remembers=False)
    house.sources["primary"] = rows_of(house.clock, {1: 1.0})
    house.read(1)

    assert house.memory.size("v") == 0
    assert house.remembered(1) == [None]


def test_the_cache_is_bounded_however_much_is_read() -> None:
    house = House(max_rows=40)
    house.sources["primary"] = rows_of(house.clock, {key: float(key) for key in range(500)})
    for begin in range(0, 500, 25):
        house.read(*range(begin, begin + 25))
        assert house.memory.size("v") <= 40

    assert house.remembered(499) == [499.0]


def test_threads_remember_only_what_is_so() -> None:
    house = House(max_rows=100)
    house.sources["primary"] = rows_of(house.clock, {key: float(key) for key in range(200)})
    wrong: list[Any] = []

    def reads(number: int) -> None:
        try:
            for turn in range(60):
                keys = [(number * 37 + turn * 3 + at) % 200 for at in range(5)]
                source = house.sources if turn % 3 else {"primary": StoreTimeout("x"), "second": StoreTimeout("y")}
                request = request_of(house.clock, sorted(set(keys)), rules=house.rules)
                told = play(house.plan()(request), source, house.clock)
                got = values_of(told.result.parts[0])
                wrong.extend(
                    (key, value) for key, value in zip(sorted(set(keys)), got, strict=True) if value not in {None, key}
                )
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            wrong.append(error)

    threads = [threading.Thread(target=reads, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


def test_local_tiers_are_asked_for_open_rows_only_and_the_youngest_wins() -> None:
    house = House(online=("primary",), local=("standby", "other"))
    house.sources = {
        "primary": damage(rows_of(house.clock, {1: 1.0, 2: 0.0, 3: 0.0, 4: 0.0}), [2, 3, 4]),
        "standby": rows_of(house.clock, {1: -1.0, 2: 20.0, 3: 30.0}, age_s=50),
        "other": add_rows(rows_of(house.clock, {2: 200.0}, age_s=40), house.clock, {3: 300.0}, age_s=60),
    }

    part = house.read(1, 2, 3, 4)

    assert values_of(part) == [1.0, 200.0, 30.0, None]
    assert part.origin.tolist() == [  # type: ignore[union-attr]
        Origin.PRIMARY,
        Origin.SNAPSHOT,
        Origin.SNAPSHOT,
        Origin.NONE,
    ]


def test_a_local_tier_that_fails_is_told_and_passed_over() -> None:
    house = House(online=("primary",), local=("standby", "other"))
    house.sources = {
        "primary": StoreTimeout("late"),
        "standby": StoreUnavailable("no replica"),
        "other": rows_of(house.clock, {1: 5.0}),
    }

    told = play(house.plan()(request_of(house.clock, [1], rules=house.rules)), house.sources, house.clock)

    assert told.notes == ["source.failed", "source.failed"]
    assert values_of(told.result.parts[0]) == [5.0]


def test_healthy_reads_ask_no_local_tier() -> None:
    house = House(online=("primary",), local=("standby",))
    house.sources = {"primary": rows_of(house.clock, {1: 1.0}), "standby": ZeroDivisionError()}

    assert values_of(house.read(1, 9)) == [1.0, None]


def test_a_view_with_a_default_says_so_and_one_without_says_none() -> None:
    house = House(online=("primary",))
    house.down()
    request = request_of(house.clock, [1], rules=house.rules, defaults=frozenset({VIEW.name}))

    told = play(house.plan()(request), house.sources, house.clock)

    assert told.result.parts[0].origin.tolist() == [Origin.DEFAULT]
    assert house.read(1).origin.tolist() == [Origin.NONE]  # type: ignore[union-attr]
