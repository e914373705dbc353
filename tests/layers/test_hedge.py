"""A replica asked too: when, at whose cost, and whose answer counts. Every case by both drivers, on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from featurechaos.effects import Next, Plan, sleep
from featurechaos.errors import BreakerOpen, NoTime, StoreError, StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.layers.failover import Failover
from featurechaos.layers.hedge import Hedge, Pair, Recent, _Ahead
from featurechaos.layers.retry import Budget, Retry
from featurechaos.model import Cause, Origin, Verdict
from featurechaos.readings import Part, Reading, Request, Rules
from featurechaos.testing import ManualClock, MemoryStore
from tests.layers.kit import Dice, ask_of, damage, fetch, request_of, rows_of, values_of, view_of
from tests.virtual import drive

ORDER = ("primary", "second")
AFTER_S = 0.004


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass
class Door:
    """A breaker as a hedge sees it."""

    state: int = 0
    since: float = 1.0


@dataclass
class House:
    """A primary and a replica, each with its rows, the time it takes, and perhaps an error instead; a hedge on them."""

    clock: ManualClock = field(default_factory=ManualClock)
    takes_s: dict[str, float] = field(default_factory=lambda: {"primary": 0.001, "second": 0.001})
    errors: dict[str, StoreError] = field(default_factory=dict)
    keys: tuple[int, ...] = (1, 2)
    budget: Budget = field(default_factory=lambda: Budget(ratio=0.1, burst=3))
    doors: dict[str, Door] = field(default_factory=lambda: {"primary": Door(), "second": Door()})
    attempts: int = 1

    def __post_init__(self) -> None:
        self.stores = {
            "primary": rows_of(self.clock, {1: 1.0, 2: 2.0}),
            "second": rows_of(self.clock, {1: 10.0, 2: 20.0}),
        }
        self.notes: list[tuple[str, str]] = []
        self.calls: list[tuple[str, float]] = []
        self.left: list[str] = []
        self.recent = Recent(0.95, least_s=0.001, most_s=AFTER_S)
        self.hedge = Hedge(
            self.clock,
            pairs={ORDER: Pair(*ORDER)},
            recent={"primary": self.recent},
            gates=self.doors,
            take=self.budget.take,
            once=self.ask,
        )
        retry = Retry(self.clock, attempts=self.attempts, wait_first_s=0.002, budget=self.budget, rng=Dice(0.5))
        self.asked: Next = lambda request: retry(request, self.ask)
        self.hedged: Next = lambda request: self.hedge(request, self.asked)

    def ask(self, request: Request) -> Plan[Reading]:
        """What stands below: the source takes its time, and answers or fails."""
        source = request.source
        self.calls.append((source, round(self.clock.monotonic() - 1000, 6)))
        try:
            yield from sleep(self.takes_s[source])
        except GeneratorExit:
            self.left.append(source)
            raise
        if source in self.errors:
            raise self.errors[source]
        return (yield from fetch(self.clock)(request))

    def read(self, driver: str, **more: Any) -> Reading:
        request = request_of(self.clock, self.keys, **{"rules": Rules(online=ORDER), **more})
        plan = Failover()(request, self.hedged)
        return drive(driver, plan, self.clock, self.stores, lambda name, about, _: self.notes.append((name, about)))

    @property
    def named(self) -> list[str]:
        return [f"{name} {about}" for name, about in self.notes if not name.startswith("rows")]


def facts(reading: Reading) -> tuple[list[Any], set[int], set[int]]:
    """Values, origins and causes of the only view."""
    part = reading.parts[0]
    origins = {part.origin} if isinstance(part.origin, int) else set(part.origin.tolist())
    causes = {part.cause} if isinstance(part.cause, int) else set(part.cause.tolist())
    return values_of(part), origins, causes


def test_a_source_in_time_is_asked_alone(driver: str) -> None:
    house = House()

    assert facts(house.read(driver)) == ([1.0, 2.0], {Origin.PRIMARY}, {Cause.NONE})
    assert house.calls == [("primary", 0.0)]
    assert house.notes == []
    assert house.budget.tokens == 3.0


def test_a_slow_source_is_overtaken_by_its_replica_and_left(driver: str) -> None:
    house = House(takes_s={"primary": 9.0, "second": 0.001})

    reading = house.read(driver)

    assert facts(reading) == ([10.0, 20.0], {Origin.REPLICA}, {Cause.TIMEOUT}), "as if the primary had timed out"
    assert house.calls == [("primary", 0.0), ("second", AFTER_S)], "and not asked again when its turn comes"
    assert house.clock.monotonic() - 1000 == pytest.approx(AFTER_S + 0.001)
    assert house.left == ["primary"]
    assert house.named == ["hedge.started second", "hedge.used second", "source.failed primary"]
    assert house.budget.tokens == pytest.approx(3 - 1 + 0.1)


def test_the_source_still_wins_if_it_is_first(driver: str) -> None:
    house = House(takes_s={"primary": 0.006, "second": 9.0})

    assert facts(house.read(driver)) == ([1.0, 2.0], {Origin.PRIMARY}, {Cause.NONE})
    assert house.left == ["second"]
    assert house.named == ["hedge.started second"]


@pytest.mark.parametrize("what", ["missing", "expired", "damaged"])
def test_a_replica_that_has_not_all_of_it_does_not_win_while_the_source_may_answer(driver: str, what: str) -> None:
    house = House(takes_s={"primary": 0.010, "second": 0.001})
    house.stores["second"] = {
        "missing": lambda: rows_of(house.clock, {1: 10.0}),
        "expired": lambda: rows_of(house.clock, {1: 10.0, 2: 20.0}, age_s=500),
        "damaged": lambda: damage(rows_of(house.clock, {1: 10.0, 2: 20.0}), [2]),
    }[what]()

    reading = house.read(driver, rules=Rules(online=ORDER, ttl_us=100_000_000))

    assert facts(reading) == ([1.0, 2.0], {Origin.PRIMARY}, {Cause.NONE})
    assert house.calls == [("primary", 0.0), ("second", AFTER_S)]
    assert "hedge.used second" not in house.named


def test_what_such_a_replica_said_is_used_once_the_source_has_failed(driver: str) -> None:
    """Row by row it is what the same sources give one after another."""
    house = House(takes_s={"primary": 0.010, "second": 0.001}, errors={"primary": StoreTimeout("late")})
    house.stores["second"] = rows_of(house.clock, {1: 10.0})

    reading = house.read(driver)

    part = reading.parts[0]
    assert values_of(part) == [10.0, None]
    assert part.origin.tolist() == [Origin.REPLICA] * 2  # type: ignore[union-attr]
    assert part.rows.verdicts.tolist() == [Verdict.FRESH, Verdict.MISSING]
    assert part.cause.tolist() == [Cause.TIMEOUT] * 2  # type: ignore[union-attr]
    assert house.calls == [("primary", 0.0), ("second", AFTER_S)]
    assert house.clock.monotonic() - 1000 == pytest.approx(0.010), "it was there already"


def test_a_source_that_fails_early_is_failed_over_not_hedged(driver: str) -> None:
    house = House(errors={"primary": StoreRefused("no")})

    assert facts(house.read(driver)) == ([10.0, 20.0], {Origin.REPLICA}, {Cause.REFUSED})
    assert house.calls == [("primary", 0.0), ("second", 0.001)]
    assert house.named == ["source.failed primary"]
    assert house.budget.tokens == 3.0


def test_a_source_that_fails_while_its_replica_is_asked_gives_the_cause(driver: str) -> None:
    house = House(takes_s={"primary": 0.006, "second": 0.004}, errors={"primary": StoreUnavailable("reset")})

    assert facts(house.read(driver)) == ([10.0, 20.0], {Origin.REPLICA}, {Cause.REFUSED})
    assert house.calls == [("primary", 0.0), ("second", AFTER_S)]
    assert house.clock.monotonic() - 1000 == pytest.approx(AFTER_S + 0.004)
    assert house.named == ["hedge.started second", "hedge.used second", "source.failed primary"]


def test_a_hedge_that_fails_quickly_leaves_the_replica_its_turn(driver: str) -> None:
    def failing_once() -> Iterator[StoreError]:
        yield StoreUnavailable("reset")

    house = House(takes_s={"primary": 0.010, "second": 0.001}, errors={"primary": StoreTimeout("late")})
    errors = failing_once()
    ask = house.ask

    def flaky(request: Request) -> Plan[Reading]:
        reading = yield from ask(request)
        for error in errors:
            raise error
        return reading

    house.hedge._once = flaky

    assert facts(house.read(driver)) == ([10.0, 20.0], {Origin.REPLICA}, {Cause.TIMEOUT})
    assert house.calls == [("primary", 0.0), ("second", AFTER_S), ("second", 0.010)]


def test_a_hedge_that_timed_out_is_not_asked_again(driver: str) -> None:
    late = StoreTimeout("late")
    house = House(takes_s={"primary": 0.010, "second": 0.015}, errors={"primary": late, "second": late})

    reading = house.read(driver)

    assert house.calls == [("primary", 0.0), ("second", AFTER_S)]
    assert reading.parts[0].walk is not None, "the rows are open still, for the local tiers"
    assert house.named == ["hedge.started second", "source.failed primary", "source.failed second"]
    assert house.clock.monotonic() - 1000 == pytest.approx(AFTER_S + 0.015), "and not 10 + 15 ms"


def test_without_a_token_nobody_else_is_asked(driver: str) -> None:
    house = House(takes_s={"primary": 0.010, "second": 0.001}, budget=Budget(ratio=0.1, burst=0))

    assert facts(house.read(driver)) == ([1.0, 2.0], {Origin.PRIMARY}, {Cause.NONE})
    assert house.calls == [("primary", 0.0)]
    assert house.named == ["hedge.denied primary"]


@pytest.mark.parametrize("state", [1, 2, 3])
@pytest.mark.parametrize("whose", ORDER)
def test_only_between_two_that_are_closed(driver: str, whose: str, state: int) -> None:
    house = House(takes_s={"primary": 0.010, "second": 0.001})
    house.doors[whose].state = state

    house.read(driver)

    assert house.calls == [("primary", 0.0)]
    assert house.notes == []
    assert house.budget.tokens == 3.0


def test_a_replica_whose_breaker_opens_meanwhile_is_not_asked(driver: str) -> None:
    house = House(takes_s={"primary": 0.010, "second": 0.001})
    ask = house.ask

    def opening(request: Request) -> Plan[Reading]:
        house.doors["second"].state = 1
        return (yield from ask(request))

    house.asked = opening

    assert facts(house.read(driver))[1] == {Origin.PRIMARY}
    assert house.calls == [("primary", 0.0)]
    assert house.budget.tokens == 3.0, "nothing was taken"


def test_a_replica_that_an_operator_has_drained_is_not_asked(driver: str) -> None:
    house = House(takes_s={"primary": 0.010, "second": 0.001})
    house.hedge._is_drained = lambda source: source == "second"

    house.read(driver)

    assert house.calls == [("primary", 0.0)]
    assert house.budget.tokens == 3.0


@pytest.mark.parametrize("left_s", [0.0, AFTER_S, AFTER_S + 0.0005])
def test_no_hedge_without_time_for_one(driver: str, left_s: float) -> None:
    house = House(takes_s={"primary": 0.010, "second": 0.001})

    house.read(driver, left_s=left_s)

    assert house.calls == [("primary", 0.0)]


@pytest.mark.parametrize("error", [BreakerOpen("open"), NoTime("none")])
def test_a_source_that_is_not_asked_is_not_measured(driver: str, error: StoreError) -> None:
    house = House(takes_s={"primary": 0.0, "second": 0.001}, errors={"primary": error})

    house.read(driver)

    assert house.calls == [("primary", 0.0), ("second", 0.0)]
    assert len(house.recent._seconds) == 0


def test_an_error_that_is_no_store_error_flies_and_asks_nobody_else(driver: str) -> None:
    house = House(takes_s={"primary": 0.001, "second": 0.001})
    house.asked = lambda request: _broken()

    with pytest.raises(ZeroDivisionError):
        house.read(driver)

    assert house.calls == []


def test_an_error_that_is_no_store_error_costs_the_hedge_only(driver: str) -> None:
    house = House(takes_s={"primary": 0.010, "second": 0.001})
    house.hedge._once = lambda request: _broken()

    assert facts(house.read(driver)) == ([1.0, 2.0], {Origin.PRIMARY}, {Cause.NONE})


def _broken() -> Plan[Reading]:
    yield from sleep(0.001)
    raise ZeroDivisionError


def test_an_order_without_a_replica_is_not_hedged(driver: str) -> None:
    house = House(takes_s={"primary": 0.010, "second": 0.001})

    house.read(driver, rules=Rules(online=("primary",)))

    assert house.calls == [("primary", 0.0)]


def test_a_retry_and_a_hedge_share_the_budget(driver: str) -> None:
    house = House(
        takes_s={"primary": 0.0025, "second": 0.001},
        errors={"primary": StoreUnavailable("reset")},
        budget=Budget(ratio=0.0, burst=2),
        attempts=3,
    )

    house.read(driver, left_s=0.030)

    told = [name for name in house.named if name.startswith(("retry", "hedge"))]
    assert told == ["retry.scheduled primary", "hedge.started second", "hedge.used second"]
    assert house.budget.tokens == 0.0


def test_views_of_a_call_whose_keys_are_all_null_do_not_spoil_what_was_said_ahead(driver: str) -> None:
    house = House(takes_s={"primary": 9.0, "second": 0.001})
    request = request_of(house.clock, house.keys, rules=Rules(online=ORDER))
    rules = Rules(online=ORDER)
    both = request.of([*request.asks, ask_of([], view_of("none"))], [rules, rules])

    reading = drive(driver, Failover()(both, house.hedged), house.clock, house.stores)

    assert values_of(reading.parts[0]) == [10.0, 20.0]
    assert house.calls == [("primary", 0.0), ("second", AFTER_S)]


# What is usual.


def test_the_wait_is_the_quantile_of_the_latest_calls_within_its_bounds() -> None:
    recent = Recent(0.95, least_s=0.001, most_s=0.007)
    assert recent.after_s(0.0) == 0.007, "nothing is measured yet"

    for number in range(100):
        recent.add(0.002 + number * 0.00001, 0.0)

    assert recent.after_s(0.0) == pytest.approx(0.00291, abs=0.00003)
    for _ in range(256):
        recent.add(0.0001, 0.0)
    assert recent.after_s(0.0) == 0.001, "the lower bound; what is old is forgotten"
    for _ in range(256):
        recent.add(1.0, 0.0)
    assert recent.after_s(0.0) == 0.007, "the upper bound"


def test_before_32_calls_the_wait_is_the_longest() -> None:
    recent = Recent(0.5, least_s=0.001, most_s=0.007)

    for _ in range(31):
        recent.add(0.002, 0.0)
    assert recent.after_s(0.0) == 0.007
    recent.add(0.002, 0.0)
    assert recent.after_s(0.0) == 0.002


def test_a_change_of_the_sources_state_begins_anew() -> None:
    recent = Recent(0.5, least_s=0.001, most_s=0.007)
    for _ in range(64):
        recent.add(0.002, 5.0)

    assert recent.after_s(5.0) == 0.002
    assert recent.after_s(6.0) == 0.007
    recent.add(0.003, 6.0)
    assert recent.after_s(6.0) == 0.007
    assert len(recent._seconds) == 1


def test_calls_that_were_overtaken_count_so_that_the_wait_does_not_shrink(driver: str) -> None:
    """Were they left out, only quick calls would be measured, the wait would fall, and more would be overtaken."""
    house = House(budget=Budget(ratio=1.0, burst=9))
    slow = [0.0015 if number % 4 else 0.100 for number in range(400)]
    for takes_s in slow:
        house.takes_s["primary"] = takes_s
        house.read(driver)

    assert house.recent.after_s(1.0) == AFTER_S, "a quarter of the calls takes longer"
    assert [name for name, _ in house.notes].count("hedge.used") == 100


CASES: list[Callable[[House], None]] = [
    lambda house: house.takes_s.update(primary=0.1),
    lambda house: house.errors.update(primary=StoreUnavailable("x")),
    lambda house: house.errors.update(second=StoreUnavailable("x")),
    lambda house: house.takes_s.update(primary=0.006, second=0.0025),
    lambda house: house.takes_s.update(primary=0.004, second=0.001),
    lambda house: house.takes_s.update(primary=0.0039, second=0.001),
    lambda house: house.stores.update(second=MemoryStore()),
]


@pytest.mark.parametrize("first", range(len(CASES)))
@pytest.mark.parametrize("second", range(len(CASES)))
def test_both_drivers_give_the_same_history(first: int, second: int) -> None:
    told = []
    for driver in ("sync", "async"):
        house = House()
        CASES[first](house)
        CASES[second](house)
        readings = [facts(house.read(driver)) for _ in range(6)]
        told.append((readings, house.notes, house.calls, house.left, house.budget.tokens))

    assert told[0] == told[1]


def test_parts_that_are_given_ahead_are_those_of_the_answer() -> None:
    """What is said ahead of one view is not taken for another's, nor for fewer rows."""
    clock = ManualClock()
    request = request_of(clock, [1, 2], source="second")
    part = Part(rows_of_request(clock, request), origin=2)

    assert _Ahead("second", {"v": 2}, {"v": part}).covers(request)
    assert not _Ahead("second", {"v": 1}, {"v": part}).covers(request)
    assert not _Ahead("second", {"w": 2}, {"w": part}).covers(request)
    assert not _Ahead("third", {"v": 2}, {"v": part}).covers(request)


def rows_of_request(clock: ManualClock, request: Request) -> Any:
    store = rows_of(clock, {1: 1.0, 2: 2.0})
    reading = drive("sync", fetch(clock)(request), clock, {"second": store})
    return reading.parts[0].rows
