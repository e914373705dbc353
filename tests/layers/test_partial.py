"""One shard of a source is down: its rows go on, the others are the source's own, and no breaker is shut for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from featurechaos.effects import Plan, sleep, stack
from featurechaos.errors import BreakerOpen, StoreError, StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.layers.breaker import Breaker, Gate, Limits, ShardGates, State
from featurechaos.layers.deadline import Attempt
from featurechaos.layers.failover import Failover
from featurechaos.layers.fetch import Fetch
from featurechaos.layers.retry import Budget, Retry
from featurechaos.model import Cause, Origin, Verdict
from featurechaos.readings import Reading, Request
from featurechaos.stores import Answer, Ask, Partial
from featurechaos.testing import ManualClock, MemoryStore, play
from tests.layers.kit import ROLES, Dice, request_of, rows_of, values_of

KEYS = (1, 2, 3, 4)
VALUES = {key: float(key) for key in KEYS}
LIMITS = Limits(min_calls=4, slow_s=0.010)
TIMEOUT_S = 0.015


class Sharded(MemoryStore):
    """A store of which every second row of an ask is on a shard that fails with the errors it is given, in turn."""

    def __init__(self, inner: MemoryStore, errors: Sequence[StoreError | None]) -> None:
        super().__init__("primary")
        self.rows = inner.rows
        self._errors = list(errors)
        self.asked: list[list[bytes]] = []

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        self.asked.append([id_ for ask in asks for id_ in ask.keys.ids])
        answers = super().read(asks, until, as_of_us=as_of_us)
        error = self._errors.pop(0)
        if error is None:
            return answers
        lost = [np.flatnonzero(np.array([int(id_) % 2 == 0 for id_ in ask.keys.ids])) for ask in asks]
        if sum(map(len, lost)) == sum(len(ask.keys) for ask in asks):
            raise error
        made: list[Answer] = []
        for answer, at in zip(answers, lost, strict=True):
            rows: Any = list(answer)  # type: ignore[arg-type]
            for place in at:
                rows[place] = None
            made.append(Partial(rows, [(error, at)]))
        return made


def stores(clock: ManualClock, *errors: StoreError | None) -> dict[str, Any]:
    return {
        "primary": Sharded(rows_of(clock, VALUES), errors),
        "second": rows_of(clock, {key: value + 100 for key, value in VALUES.items()}),
    }


def failing(shard: str = "a:1", kind: type[StoreError] = StoreTimeout) -> StoreError:
    error = kind("no answer in time")
    error.shard = shard
    return error


@pytest.mark.parametrize(
    ("kind", "cause"),
    [(StoreTimeout, Cause.TIMEOUT), (StoreUnavailable, Cause.REFUSED), (BreakerOpen, Cause.BREAKER_OPEN)],
)
def test_rows_of_a_dead_shard_go_on_and_the_others_are_the_sources_own(kind: type[StoreError], cause: Cause) -> None:
    clock = ManualClock()
    there = stores(clock, failing(kind=kind))

    told = play(stack([Failover()], Fetch(clock, ROLES, {}))(request_of(clock, KEYS)), there, clock)

    (part,) = told.result.parts
    assert part.origin.tolist() == [Origin.PRIMARY, Origin.REPLICA, Origin.PRIMARY, Origin.REPLICA]
    assert values_of(part) == [1.0, 102.0, 3.0, 104.0]
    assert part.cause.tolist() == [Cause.NONE, cause, Cause.NONE, cause]
    assert told.notes == ["rows.moved"]


def test_rows_nobody_else_has_stay_open_and_say_why() -> None:
    clock = ManualClock()
    there = stores(clock, failing())
    there["second"].rows.clear()

    told = play(stack([Failover()], Fetch(clock, ROLES, {}))(request_of(clock, KEYS)), there, clock)

    (part,) = told.result.parts
    assert part.cause.tolist() == [Cause.NONE, Cause.TIMEOUT, Cause.NONE, Cause.TIMEOUT]
    assert part.rows.verdicts.tolist()[::2] == [Verdict.FRESH] * 2


def retry_of(clock: ManualClock, *, burst: float = 3.0, attempts: int = 2) -> Retry:
    budget = Budget(ratio=0.0, burst=burst)
    return Retry(clock, attempts=attempts, wait_first_s=0.002, budget=budget, rng=Dice(0.5))


def test_a_retry_asks_for_the_lost_rows_alone_and_keeps_the_others() -> None:
    clock = ManualClock()
    there = stores(clock, failing(), None)

    told = play(stack([retry_of(clock)], Fetch(clock, ROLES, {}))(request_of(clock, KEYS)), there, clock)

    (part,) = told.result.parts
    assert there["primary"].asked == [[b"1", b"2", b"3", b"4"], [b"2", b"4"]]
    assert values_of(part) == [1.0, 2.0, 3.0, 4.0]
    assert part.rows.verdicts.tolist() == [Verdict.FRESH] * 4
    assert not told.result.is_partial
    assert told.notes == ["retry.scheduled"]


@pytest.mark.parametrize(
    ("error", "burst", "left_s", "notes"),
    [
        (failing(kind=BreakerOpen), 3.0, 0.05, []),
        (failing(), 0.0, 0.05, ["retry.denied"]),
        (failing(), 3.0, 0.0005, []),
    ],
    ids=["breaker open", "no budget", "no time"],
)
def test_no_retry_where_it_is_of_no_use(error: StoreError, burst: float, left_s: float, notes: list[str]) -> None:
    clock = ManualClock()
    there = stores(clock, error)
    plan = stack([retry_of(clock, burst=burst)], Fetch(clock, ROLES, {}))

    told = play(plan(request_of(clock, KEYS, left_s=left_s)), there, clock)

    assert told.notes == notes
    assert told.result.is_partial
    assert values_of(told.result.parts[0])[::2] == [1.0, 3.0]


def test_a_retry_that_fails_too_leaves_what_there_was() -> None:
    clock = ManualClock()
    there = stores(clock, *(failing(),) * 3)
    plan = stack([retry_of(clock, attempts=3)], Fetch(clock, ROLES, {}))

    told = play(plan(request_of(clock, KEYS)), there, clock)

    assert [len(ids) for ids in there["primary"].asked] == [4, 2, 2]
    assert told.result.parts[0].cause.tolist() == [Cause.NONE, Cause.TIMEOUT, Cause.NONE, Cause.TIMEOUT]


def test_a_source_of_which_one_shard_fails_or_hangs_is_neither_failing_nor_slow() -> None:
    clock = ManualClock()
    breaker = Breaker(clock, LIMITS, timeouts={"primary": TIMEOUT_S}, rng=Dice(0.0))

    def hanging(request: Request) -> Plan[Reading]:
        yield from sleep(TIMEOUT_S)
        return (yield from Fetch(clock, ROLES, {})(request))

    for keys in [KEYS, (2, 4)] * 10:  # in part, and of that shard alone
        there = stores(clock, failing())
        told = play(breaker(request_of(clock, keys), hanging), there, clock)
        assert (told.error is None) == (keys is KEYS)

    assert breaker.gates["primary"].state is State.CLOSED


def test_an_attempt_that_lost_a_shard_is_told_as_partial() -> None:
    clock, heard = ManualClock(), []
    attempt = Attempt(clock, {"primary": TIMEOUT_S}, lambda *told: heard.append(told[:2]))

    for error in (failing(), None):
        play(attempt(request_of(clock, KEYS), Fetch(clock, ROLES, {})), stores(clock, error), clock)

    assert heard == [("primary", "partial"), ("primary", "ok")]


class Heard:
    """Gates of one source's shards, and what they tell."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.told: list[tuple[str, str]] = []
        self.watched: dict[str, Gate | None] = {}
        self.gates = ShardGates(
            "primary",
            self.clock,
            LIMITS,
            timeout_s=TIMEOUT_S,
            rng=Dice(0.0),
            tell=lambda name, about, fields: self.told.append((name, about)),
            watch=self.watched.__setitem__,
        )

    def call(self, shard: str, error: StoreError | None = None, *, takes_s: float = 0.001) -> bool:
        asked = self.gates.admit(shard)
        if asked is None:
            return False
        self.clock.advance(takes_s)
        self.gates.settle(asked, error=error)
        return True


def test_each_shard_has_a_gate_of_its_own() -> None:
    it = Heard()

    for _ in range(4):
        assert it.call("a:1", StoreUnavailable("refused"))
        assert it.call("b:2")

    assert not it.call("a:1")
    assert it.call("b:2")
    assert it.told == [("breaker.opened", "primary/a:1")]
    assert {name: gate and gate.state for name, gate in it.watched.items()} == {
        "primary/a:1": State.OPEN,
        "primary/b:2": State.CLOSED,
    }


def test_a_shard_is_taken_back_with_care() -> None:
    it = Heard()
    for _ in range(4):
        it.call("a:1", StoreRefused("no permission"))

    it.clock.advance(LIMITS.open_s)
    first = it.gates.admit("a:1")
    assert first is not None
    assert it.gates.admit("a:1") is None, "one probe at a time"
    it.gates.settle(first, is_left=True)
    assert it.call("a:1")
    it.clock.advance(LIMITS.healthy_s)
    assert it.call("a:1")
    it.clock.advance(LIMITS.ramp_s)
    assert it.call("a:1")

    names = [name for name, about in it.told]
    assert [name for name in names if name != "breaker.probed"] == [
        "breaker.opened",
        "breaker.ramping",
        "breaker.closed",
    ]


def test_a_timeout_before_its_time_is_not_the_shards_fault() -> None:
    it = Heard()

    for _ in range(10):
        assert it.call("a:1", StoreTimeout("in a hurry"), takes_s=0.005)
        assert it.call("b:2", StoreTimeout("late"), takes_s=TIMEOUT_S) or it.told

    assert it.told == [("breaker.opened", "primary/b:2")]


def test_shards_that_are_gone_are_forgotten_and_their_trouble_is_over() -> None:
    it = Heard()
    for _ in range(4):
        it.call("a:1", StoreUnavailable("refused"))
    it.call("b:2")

    it.gates.keep(["b:2", "c:3"])

    assert it.gates.gates.keys() == {"primary/b:2"}
    assert it.watched["primary/a:1"] is None
    assert it.told == [("breaker.opened", "primary/a:1"), ("breaker.closed", "primary/a:1")]


def test_limits_may_change_and_what_is_open_stays_open() -> None:
    it = Heard()
    for _ in range(4):
        it.call("a:1", StoreUnavailable("refused"))

    it.gates.limit(replace(LIMITS, open_s=LIMITS.open_s / 4), timeout_s=TIMEOUT_S)

    assert not it.call("a:1")
    it.clock.advance(LIMITS.open_s / 4)
    assert it.call("a:1")


def test_a_timeout_counts_by_the_time_that_is_fair_now() -> None:
    it = Heard()
    it.gates.limit(LIMITS, timeout_s=5 * TIMEOUT_S)
    for _ in range(9):
        it.call("a:1", StoreTimeout("no answer in time"), takes_s=TIMEOUT_S)
    assert it.told == []

    it.gates.limit(LIMITS, timeout_s=TIMEOUT_S)
    for _ in range(9):
        it.call("a:1", StoreTimeout("no answer in time"), takes_s=TIMEOUT_S)

    assert it.told == [("breaker.opened", "primary/a:1")]


def test_without_limits_every_shard_is_asked_and_none_is_told_of() -> None:
    it = Heard()
    under_way = it.gates.admit("a:1")
    assert under_way is not None
    for _ in range(4):
        it.call("a:1", StoreUnavailable("refused"))

    it.gates.limit(None, timeout_s=TIMEOUT_S)
    it.gates.settle(under_way, error=StoreUnavailable("refused"))

    assert it.told == [("breaker.opened", "primary/a:1"), ("breaker.closed", "primary/a:1")]
    assert it.watched == {"primary/a:1": None}
    assert all(it.call("a:1", StoreUnavailable("refused")) for _ in range(9))
    it.gates.limit(LIMITS, timeout_s=TIMEOUT_S)
    for _ in range(4):
        it.call("a:1", StoreUnavailable("refused"))
    assert not it.call("a:1")
