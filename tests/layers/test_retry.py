"""Asking again: when, how often, and never past the budget or the deadline."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import repeat
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.effects import Note
from featurechaos.errors import (
    BreakerOpen,
    DecodeError,
    NoTime,
    StoreEmpty,
    StoreRefused,
    StoreTimeout,
    StoreUnavailable,
)
from featurechaos.layers.retry import Budget, Retry
from featurechaos.testing import ManualClock, Told, play
from tests.layers.kit import Dice, acting, fetch, request_of, rows_of, values_of


def retry(
    clock: ManualClock, *, attempts: int = 2, wait_s: float = 0.002, draw: float = 0.5, budget: Budget | None = None
) -> Retry:
    return Retry(
        clock, attempts=attempts, wait_first_s=wait_s, budget=budget or Budget(ratio=0.1, burst=3), rng=Dice(draw)
    )


def played(clock: ManualClock, layer: Retry, turns: Sequence[object], *, left_s: float = 0.05) -> Told:
    plan = layer(request_of(clock, left_s=left_s), fetch(clock))
    return play(plan, {"primary": iter(turns)}, clock)


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), StoreTimeout("late")])
def test_a_failure_that_may_pass_is_asked_again(error: Exception) -> None:
    clock = ManualClock()

    told = played(clock, retry(clock), [error, rows_of(clock, {1: 7.0})])

    assert told.reads == ["primary", "primary"]
    assert told.notes == ["retry.scheduled", "retry.answered"]
    assert values_of(told.result.parts[0]) == [7.0]
    assert told.slept_s == pytest.approx(0.001)


@pytest.mark.parametrize("error", [StoreRefused("no"), BreakerOpen("open"), NoTime("no time"), StoreEmpty("flushed")])
def test_what_will_not_pass_is_not_asked_again(error: Exception) -> None:
    clock = ManualClock()
    layer = retry(clock)

    told = play(layer(request_of(clock), acting(iter([error]))), {}, clock)

    assert told.error is error
    assert told.notes == []
    assert layer.budget._tokens == 3, "nothing was taken"


def test_an_error_that_is_no_store_error_flies() -> None:
    clock = ManualClock()

    with pytest.raises(ZeroDivisionError):
        play(retry(clock)(request_of(clock), acting(iter([ZeroDivisionError()]))), {}, clock)
    told = play(retry(clock)(request_of(clock), acting(iter([DecodeError("x")]))), {}, clock)
    assert isinstance(told.error, DecodeError)
    assert told.notes == []


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_attempts_are_counted_and_the_last_failure_is_told(attempts: int) -> None:
    clock = ManualClock()
    errors = [StoreUnavailable(str(number)) for number in range(9)]

    told = played(clock, retry(clock, attempts=attempts, budget=Budget(burst=9)), errors, left_s=1.0)

    assert len(told.reads) == attempts
    assert told.error is errors[attempts - 1]
    assert told.notes == ["retry.scheduled"] * (attempts - 1)


def test_waits_double_and_are_told() -> None:
    clock = ManualClock()

    told = played(
        clock, retry(clock, attempts=4, draw=1.0, budget=Budget(burst=9)), [StoreUnavailable("x")] * 4, left_s=1.0
    )

    notes = [effect for effect in told.effects if isinstance(effect, Note)]
    assert [note.fields["wait_s"] for note in notes] == pytest.approx([0.002, 0.004, 0.008])
    assert [note.fields["attempt"] for note in notes] == [1, 2, 3]
    assert told.slept_s == pytest.approx(0.014)


def test_a_wait_that_would_end_past_the_deadline_is_not_begun() -> None:
    clock = ManualClock()
    layer = retry(clock, wait_s=0.1, draw=0.5)

    told = played(clock, layer, [StoreUnavailable("x")] * 2, left_s=0.05)

    assert (told.reads, told.notes, told.slept_s) == (["primary"], [], 0.0)
    assert layer.budget._tokens == 3, "a retry that is not made costs nothing"


def test_without_budget_the_first_failure_goes_up_at_once() -> None:
    clock = ManualClock()
    first = StoreUnavailable("first")

    told = played(clock, retry(clock, budget=Budget(ratio=0.1, burst=0)), [first, first])

    assert told.error is first
    assert (told.reads, told.notes, told.slept_s) == (["primary"], ["retry.denied"], 0.0)


@pytest.mark.parametrize("then", [NoTime("none left"), BreakerOpen("the first failure opened it")])
def test_an_attempt_that_is_not_made_leaves_the_reason_of_the_one_before(then: Exception) -> None:
    clock = ManualClock()
    first = StoreTimeout("late")

    told = play(retry(clock)(request_of(clock), acting(iter([first, then]))), {}, clock)

    assert told.error is first


@given(
    seed=st.integers(0, 2**32),
    left_s=st.floats(0.0, 0.1),
    wait_s=st.floats(0.0, 0.1),
    takes_s=st.floats(0.0, 0.05),
    attempts=st.integers(1, 6),
)
def test_no_wait_ends_past_the_deadline(seed: int, left_s: float, wait_s: float, takes_s: float, attempts: int) -> None:
    clock = ManualClock()
    layer = Retry(clock, attempts=attempts, wait_first_s=wait_s, budget=Budget(burst=9), rng=Random(seed))
    request = request_of(clock, left_s=left_s)
    begun: list[float] = []

    def inner(given: object) -> object:
        begun.append(clock.monotonic())
        return acting(repeat(StoreUnavailable("x")), takes_s=takes_s)(request)

    told = play(layer(request, inner), {}, clock)  # type: ignore[arg-type]

    assert isinstance(told.error, StoreUnavailable)
    assert all(at < request.until for at in begun[1:])
    assert len(begun) <= attempts


@given(
    ratio=st.floats(0.0, 1.0),
    burst=st.integers(0, 10),
    attempts=st.integers(1, 4),
    runs=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), max_size=60),
)
def test_retries_never_exceed_the_budget_over_any_run(
    ratio: float, burst: int, attempts: int, runs: list[list[bool]]
) -> None:
    clock = ManualClock()
    layer = retry(clock, attempts=attempts, budget=Budget(ratio=ratio, burst=burst))
    retries = 0
    for first, run in enumerate(runs, start=1):
        outcomes = iter([0.0 if ok else StoreUnavailable("x") for ok in run])
        told = play(layer(request_of(clock, left_s=1.0), acting(outcomes)), {}, clock)
        retries += told.notes.count("retry.scheduled")

        assert retries <= ratio * first + burst + 1e-6


@pytest.mark.parametrize(
    ("outcome", "earned"),
    [
        (0.0, 0.25),
        (StoreTimeout("late"), 0.25),
        (StoreRefused("no"), 0.25),
        (BreakerOpen("open"), 0.0),
        (NoTime("none"), 0.0),
    ],
)
def test_only_a_first_attempt_that_was_made_earns(outcome: Exception | float, earned: float) -> None:
    """Else a source that is not asked saves up retries for the moment it comes back."""
    clock = ManualClock()
    budget = Budget(ratio=0.25, burst=1)
    assert budget.take()

    play(retry(clock, budget=budget)(request_of(clock), acting(iter([outcome]))), {}, clock)

    assert budget._tokens == earned


def test_a_budget_saves_up_no_more_than_its_burst() -> None:
    budget = Budget(ratio=0.5, burst=2)
    for _ in range(100):
        budget.earn()

    assert [budget.take() for _ in range(4)] == [True, True, False, False]


def test_other_limits_bound_what_is_saved_up_from_then_on() -> None:
    budget = Budget(ratio=1.0, burst=5.0)
    budget.limit(ratio=1.0, burst=2.0)
    for _ in range(10):
        budget.earn()

    assert [budget.take() for _ in range(3)] == [True, True, False]

    budget.limit(ratio=1.0, burst=4.0)
    for _ in range(10):
        budget.earn()

    assert budget.tokens == 4


def test_a_budget_is_exact_under_threads() -> None:
    budget = Budget(ratio=0.0, burst=1000)
    taken: list[int] = []

    def take() -> None:
        taken.append(sum(budget.take() for _ in range(500)))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(taken) == 1000
