"""The request's deadline, and one attempt's share of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.effects import Next, Plan, Read, sleep
from featurechaos.errors import InjectedOutage, NoTime, StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.faults.outage import timed_out
from featurechaos.layers.deadline import LEAST_S, Attempt, Deadline
from featurechaos.readings import Reading, Request
from featurechaos.testing import ManualClock, play
from tests.layers.kit import acting, fetch, request_of, rows_of


def remembering(kept: list[Request]) -> Next:
    def plan(request: Request) -> Plan[Reading]:
        kept.append(request)
        return acting(iter([0.0]))(request)

    return plan


@pytest.mark.parametrize(
    ("left_s", "reserved_s"), [(0.050, 0.005), (0.010, 0.005), (0.004, 0.002), (0.0, 0.0), (-1, 0.0)]
)
def test_the_walk_ends_early_enough_for_what_comes_after_it(left_s: float, reserved_s: float) -> None:
    clock, kept = ManualClock(), list[Request]()

    play(Deadline(clock)(request_of(clock, left_s=left_s), remembering(kept)), {}, clock)

    assert kept[0].until == pytest.approx(clock.monotonic() + left_s - reserved_s)
    assert kept[0].source == "primary"


@given(left_s=st.floats(-10, 10), reserve_s=st.floats(0, 10))
def test_a_deadline_is_never_moved_back_nor_before_now(left_s: float, reserve_s: float) -> None:
    clock, kept = ManualClock(), list[Request]()
    request = request_of(clock, left_s=left_s)

    play(Deadline(clock, reserve_s=reserve_s)(request, remembering(kept)), {}, clock)

    assert kept[0].until <= request.until
    assert kept[0].until >= min(request.until, clock.monotonic()) - 1e-9


Metered = list[tuple[str, str, float]]


def attempt(clock: ManualClock, meter: Metered, *, timeout_s: float = 0.015) -> Attempt:
    return Attempt(clock, {"primary": timeout_s}, lambda *told: meter.append(told))


@pytest.mark.parametrize(("left_s", "wanted_s"), [(0.050, 0.015), (0.010, 0.010), (LEAST_S + 1e-6, LEAST_S + 1e-6)])
def test_an_attempt_has_its_sources_timeout_or_what_is_left(left_s: float, wanted_s: float) -> None:
    clock, meter = ManualClock(), Metered()
    store = rows_of(clock, {1: 1.0})

    told = play(attempt(clock, meter)(request_of(clock, left_s=left_s), fetch(clock)), {"primary": store}, clock)

    read = told.effects[0]
    assert isinstance(read, Read)
    assert read.until == pytest.approx(clock.monotonic() + wanted_s)


@pytest.mark.parametrize("left_s", [0.000999, 0.0, -5.0])
def test_less_than_a_millisecond_is_no_time(left_s: float) -> None:
    clock, meter = ManualClock(), Metered()

    told = play(attempt(clock, meter)(request_of(clock, left_s=left_s), fetch(clock)), {}, clock)

    assert isinstance(told.error, NoTime)
    assert str(told.error) == f"source 'primary' was not asked: {max(0.0, left_s) * 1000:.1f} ms were left"
    assert (told.effects, meter) == ([], [])


@pytest.mark.parametrize(
    ("outcome", "label"),
    [
        (0.0, "ok"),
        (StoreTimeout("late"), "timeout"),
        (StoreRefused("no"), "refused"),
        (StoreUnavailable("gone"), "error"),
        (InjectedOutage("ours"), "injected"),
        (timed_out("primary"), "injected"),
    ],
)
def test_each_attempt_is_metered_with_its_outcome_and_seconds(outcome: Any, label: str) -> None:
    clock, meter = ManualClock(), Metered()

    play(attempt(clock, meter)(request_of(clock), acting(iter([outcome]), takes_s=0.007)), {}, clock)

    assert [(source, told) for source, told, _ in meter] == [("primary", label)]
    assert meter[0][2] == pytest.approx(0.007)


def close(plan: Plan[Reading]) -> None:
    plan.close()


def interrupt(plan: Plan[Reading]) -> None:
    with pytest.raises(KeyboardInterrupt):
        plan.throw(KeyboardInterrupt())


@pytest.mark.parametrize("end", [close, interrupt])
def test_an_attempt_that_is_left_is_metered_as_cancelled(end: Callable[[Plan[Reading]], None]) -> None:
    clock, meter = ManualClock(), Metered()

    def inner(request: Request) -> Plan[Reading]:
        yield from sleep(9.0)
        return Reading([])

    plan = attempt(clock, meter)(request_of(clock), inner)
    next(plan)
    clock.advance(0.004)
    end(plan)

    assert [told[:2] for told in meter] == [("primary", "cancelled")]
    assert meter[0][2] == pytest.approx(0.004)
