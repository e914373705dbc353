"""The breaker around attempts: what counts against a source, and that no permit is ever lost."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import pytest

from featurechaos.effects import Note, Read
from featurechaos.errors import BreakerOpen, NoTime, StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.layers.breaker import Breaker, Limits, State
from featurechaos.testing import ManualClock, Told, play
from tests.layers.kit import Dice, acting, fetch, request_of, rows_of

TIMEOUT_S = 0.015
LIMITS = Limits(min_calls=4, slow_s=0.010)


def breaker_of(clock: ManualClock) -> Breaker:
    return Breaker(clock, LIMITS, timeouts={"primary": TIMEOUT_S, "second": TIMEOUT_S}, rng=Dice(0.0))


def after(
    breaker: Breaker, clock: ManualClock, outcome: Any, *, takes_s: float = 0.001, source: str = "primary"
) -> Told:
    plan = breaker(request_of(clock, source=source), acting(repeat(outcome), takes_s=takes_s))
    return play(plan, {}, clock)


def state(breaker: Breaker, source: str = "primary") -> State:
    return breaker.gates[source].state


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), StoreRefused("no password")])
def test_failures_open_it_and_it_is_told_once(error: Exception) -> None:
    clock = ManualClock()
    breaker = breaker_of(clock)

    told = [after(breaker, clock, error) for _ in range(4)]
    refused = after(breaker, clock, error)

    assert [one.notes for one in told] == [[], [], [], ["breaker.opened"]]
    note = next(effect for effect in told[3].effects if isinstance(effect, Note))
    assert (note.about, note.fields["reason"]) == ("primary", str(error))
    assert all(one.error is error for one in told)
    assert isinstance(refused.error, BreakerOpen)
    assert str(refused.error) == "source 'primary' was not asked: it has been failing"
    assert refused.effects == []


def test_slow_answers_open_it_and_it_says_why() -> None:
    clock = ManualClock()
    breaker = breaker_of(clock)

    told = [after(breaker, clock, 0.0, takes_s=0.012) for _ in range(4)]

    assert [one.notes for one in told] == [[], [], [], ["breaker.opened"]]
    note = next(effect for effect in told[3].effects if isinstance(effect, Note))
    assert note.fields == {"reason": "most calls are slow or fail", "again": False}
    assert told[3].error is None, "the answer itself is good"


def test_each_source_has_its_own_gate() -> None:
    clock = ManualClock()
    breaker = breaker_of(clock)
    for _ in range(4):
        after(breaker, clock, StoreUnavailable("gone"))

    assert after(breaker, clock, 0.0, source="second").error is None
    assert (state(breaker), state(breaker, "second")) == (State.OPEN, State.CLOSED)


def test_a_timeout_counts_only_after_its_fair_time() -> None:
    clock = ManualClock()
    breaker = breaker_of(clock)
    for _ in range(50):
        after(breaker, clock, StoreTimeout("the caller was in a hurry"), takes_s=0.005)
    assert state(breaker) is State.CLOSED

    for _ in range(4):
        after(breaker, clock, StoreTimeout("late"), takes_s=TIMEOUT_S)

    assert state(breaker) is State.OPEN


def test_what_is_fair_may_change() -> None:
    clock = ManualClock()
    breaker = breaker_of(clock)
    breaker.limit(LIMITS, timeouts={"primary": TIMEOUT_S / 5, "second": TIMEOUT_S})

    for _ in range(4):
        after(breaker, clock, StoreTimeout("late"), takes_s=TIMEOUT_S / 5)
        after(breaker, clock, StoreTimeout("the caller was in a hurry"), takes_s=TIMEOUT_S / 5, source="second")

    assert (state(breaker), state(breaker, "second")) == (State.OPEN, State.CLOSED)


def test_a_want_of_time_is_no_fault_of_the_source() -> None:
    clock = ManualClock()
    breaker = breaker_of(clock)

    errors = [after(breaker, clock, NoTime("none left")).error for _ in range(50)]

    assert all(isinstance(error, NoTime) for error in errors)
    assert state(breaker) is State.CLOSED


def probing(clock: ManualClock) -> Breaker:
    """A breaker whose next call is a probe."""
    breaker = breaker_of(clock)
    for _ in range(4):
        after(breaker, clock, StoreUnavailable("gone"))
    clock.advance(1.01)
    return breaker


def test_the_way_back_is_told_step_by_step() -> None:
    clock = ManualClock()
    breaker = probing(clock)
    notes: list[str] = []
    for _ in range(100):
        notes += after(breaker, clock, 0.0, takes_s=0.002).notes
        clock.advance(0.05)

    assert notes[0] == "breaker.probed"
    assert [name for name in notes if name != "breaker.probed"] == ["breaker.ramping", "breaker.closed"]


@pytest.mark.parametrize("when", ["at the note", "while it waits", "at the answer"])
def test_a_probe_that_is_cancelled_gives_its_place_back(when: str) -> None:
    clock = ManualClock()
    breaker = probing(clock)
    plan = breaker(request_of(clock), fetch(clock))
    assert isinstance(next(plan), Note)
    if when != "at the note":
        assert isinstance(plan.send(None), Read)

    if when == "at the answer":
        with pytest.raises(KeyboardInterrupt):
            plan.throw(KeyboardInterrupt())
    else:
        plan.close()

    assert state(breaker) is State.PROBING
    assert after(breaker, clock, 0.0).error is None, "the next one may probe"


def test_a_listener_that_raises_at_the_probes_note_costs_no_probe() -> None:
    clock = ManualClock()
    breaker = probing(clock)
    plan = breaker(request_of(clock), fetch(clock))
    next(plan)

    with pytest.raises(ZeroDivisionError):
        plan.throw(ZeroDivisionError())

    assert after(breaker, clock, 0.0).error is None


def test_an_error_that_is_none_of_ours_counts_for_nothing() -> None:
    clock = ManualClock()
    breaker = probing(clock)

    with pytest.raises(ZeroDivisionError):
        after(breaker, clock, ZeroDivisionError())

    assert state(breaker) is State.PROBING
    assert after(breaker, clock, 0.0).error is None


def test_a_plan_that_is_never_begun_holds_no_permit() -> None:
    clock = ManualClock()
    breaker = probing(clock)

    breaker(request_of(clock), fetch(clock)).close()

    assert after(breaker, clock, 0.0).error is None


def test_an_answer_goes_up_as_it_is() -> None:
    clock = ManualClock()
    store = rows_of(clock, {1: 5.0})

    told = play(breaker_of(clock)(request_of(clock), fetch(clock)), {"primary": store}, clock)

    assert told.reads == ["primary"]
    assert told.notes == []
    assert told.result.parts[0].is_fresh
