"""One source's breaker as a state machine: probes, generations, rates over time, the way back."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from featurechaos.layers.breaker import Gate, Limits, Permit, State
from tests.layers.kit import Dice

LIMITS = Limits(
    window_s=10, failure_rate=0.5, slow_rate=0.8, slow_s=0.01, min_calls=10, open_s=1, healthy_s=1, ramp_s=2
)


def gate_of(limits: Limits = LIMITS, draw: float = 0.0) -> Gate:
    return Gate(limits, rng=Dice(draw), now=0.0)


def call(gate: Gate, now: float, *, ok: bool, seconds: float = 0.001) -> bool:
    """One call from start to end; whether it was let through."""
    permit = gate.admit(now)
    if permit is None:
        return False
    gate.settle(permit, now + seconds, succeeded=ok, seconds=seconds)
    return True


def opened(limits: Limits = LIMITS, *, at: float = 0.0, draw: float = 0.0) -> Gate:
    gate = gate_of(limits, draw)
    for _ in range(limits.min_calls):
        call(gate, at, ok=False)
    assert gate.state is State.OPEN
    return gate


def test_it_opens_at_the_failure_rate_and_not_on_failures_in_a_row() -> None:
    gate = gate_of()
    for number, ok in zip(range(9), cycle([False, True]), strict=False):
        call(gate, number * 0.1, ok=ok)
        assert gate.state is State.CLOSED, "too few calls to judge by"

    call(gate, 0.9, ok=True)

    assert gate.state is State.OPEN, "five of ten"


def test_below_the_failure_rate_it_stays_closed() -> None:
    gate = gate_of()
    for number, ok in zip(range(300), cycle([False, True, True]), strict=False):
        call(gate, number * 0.01, ok=ok)

    assert gate.state is State.CLOSED


def busy() -> Gate:
    """A gate that has let a thousand good calls through in the second before time 10: no rate judges it soon."""
    gate = gate_of()
    for number in range(1000):
        assert gate.passed(gate.permit, 9 + number / 1000)
    return gate


def opened_after_s(*, every_s: float) -> float:
    """How long after the first of failures in a row a busy gate opens."""
    gate, now = busy(), 10.0
    while call(gate, now, ok=False) and gate.state is State.CLOSED:
        now += every_s
    return now - 10.0


def test_nothing_but_failures_for_a_twentieth_of_the_window_opens_it() -> None:
    assert opened_after_s(every_s=0.01) == pytest.approx(0.5, abs=0.011)


def test_a_run_is_of_the_least_number_of_calls() -> None:
    assert opened_after_s(every_s=0.2) == pytest.approx(0.2 * (LIMITS.min_calls - 1))


def test_reads_that_time_out_together_are_no_run() -> None:
    """A process that stands still for a second finds all of its reads late at the end of it."""
    gate = busy()

    for number in range(64):
        call(gate, 10 + number * 0.007, ok=False)

    assert gate.state is State.CLOSED


@pytest.mark.parametrize("how", ["passed", "settled", "settled slow"])
def test_any_success_ends_a_run(how: str) -> None:
    gate, now = busy(), 10.0
    for number in range(200):
        if number % 45 == 44 and how == "passed":
            assert gate.passed(gate.permit, now)
        else:
            call(gate, now, ok=number % 45 == 44, seconds=0.012 if how == "settled slow" else 0.001)
        now += 0.01

    assert gate.state is State.CLOSED


@pytest.mark.parametrize(("failures", "state"), [(LIMITS.min_calls, State.OPEN), (LIMITS.min_calls - 1, State.CLOSED)])
def test_a_cancelled_call_neither_ends_a_run_nor_is_of_it(failures: int, state: State) -> None:
    gate, now = busy(), 10.0
    for number in range(10 * failures):
        permit = gate.permit
        gate.settle(permit, now, succeeded=False if number % 10 == 9 else None, seconds=0.001)
        now += 0.01

    assert gate.state is state


def test_failures_with_a_window_between_them_are_no_run() -> None:
    """What passes so long after the last bad call is not looked at, so it could not have ended the run."""
    gate = gate_of()
    for number in range(40):
        call(gate, 10.5 * number, ok=False)

    assert gate.state is State.CLOSED


def test_a_run_that_is_over_does_not_go_on_under_other_limits() -> None:
    gate = busy()
    for number in range(LIMITS.min_calls - 1):
        call(gate, 10 + number * 0.1, ok=False)
    assert gate.passed(gate.permit, 30)

    gate.limit(replace(LIMITS, open_s=2), 30)
    call(gate, 30, ok=False)

    assert gate.state is State.CLOSED


def test_a_call_that_passes_a_healthy_gate_changes_its_buckets_alone() -> None:
    """It is on the path of every read."""

    def seen(gate: Gate) -> dict[str, Any]:
        return {name: value for name, value in vars(gate).items() if name != "_buckets"}

    gate = gate_of()
    before = seen(gate)
    gate.passed(gate.permit, 1.0)

    assert seen(gate) == before


def kept_waits(gate: Gate, *, seconds: float) -> NDArray[np.float64]:
    """How long a keeper waits before each of its probes, all of which fail."""
    at = [gate.since]
    while (now := at[-1]) < at[0] + seconds:
        while (permit := gate.admit(now, is_keeper=True)) is None:
            wait_s = gate.keep(now, for_s=1.0)
            assert wait_s is not None
            now += max(wait_s, 1e-6)
        assert now > at[-1]
        gate.settle(permit, now, succeeded=False, seconds=0.015)
        at.append(now)
    return np.diff(at)


def test_a_keeper_waits_less_after_a_failed_probe_and_longer_the_longer_it_is_away() -> None:
    waits = kept_waits(opened(), seconds=60)

    assert waits[0] == pytest.approx(LIMITS.open_s)
    assert waits[1:30] == pytest.approx(0.25)
    assert np.diff(waits[1:]).min() > -1e-6
    assert waits[-1] == pytest.approx(LIMITS.open_s)
    assert len(waits) == pytest.approx(1 + 9 / 0.25 + 40 * np.log(4) + 20, abs=3)


def test_a_source_that_has_answered_in_between_is_looked_at_as_often_as_at_first() -> None:
    gate = opened()
    kept_waits(gate, seconds=60)

    now = gate.since + 2
    for ok in (True, False):
        permit = gate.admit(now, is_keeper=True)
        assert permit is not None
        gate.settle(permit, now, succeeded=ok, seconds=0.02)

    assert kept_waits(gate, seconds=1) == pytest.approx(0.25, abs=1e-5)


def test_a_keeper_waits_its_own_time_and_requests_wait_for_open_s() -> None:
    gate = opened()
    call(gate, 1.5, ok=False)

    admitted = [gate.admit(gate.since + at, is_keeper=is_keeper) for at, is_keeper in [(0.9, False), (0.24, True)]]
    probe = gate.admit(gate.since + 0.251, is_keeper=True)

    assert admitted == [None, None]
    assert probe is not None


def test_the_waits_of_keepers_are_drawn() -> None:
    waits = [kept_waits(opened(draw=draw), seconds=1.25) for draw in (0.0, 0.5, 1.0)]

    assert [each[0] for each in waits] == pytest.approx([1.0, 1.1, 1.2], abs=1e-5)
    assert [each[1] for each in waits] == pytest.approx([0.25, 0.275, 0.3], abs=1e-5)


def test_a_keeper_waits_no_longer_than_a_short_open_s() -> None:
    assert kept_waits(opened(replace(LIMITS, open_s=0.05)), seconds=1) == pytest.approx(0.05, abs=1e-5)


def test_limits_that_change_while_it_is_open_hold_at_once() -> None:
    gate = opened(replace(LIMITS, open_s=60))
    before = gate.keep(gate.since, for_s=1.0)

    gate.limit(LIMITS, gate.since)

    assert (before, gate.keep(gate.since, for_s=1.0)) == pytest.approx((60, 1))


def test_a_source_that_fails_on_the_ramp_is_left_alone_for_open_s_again() -> None:
    gate = ramping(0.0)
    begun = gate.since
    for number in range(LIMITS.min_calls):
        call(gate, begun + 0.1 + number * 0.01, ok=False)

    assert kept_waits(gate, seconds=1.25)[:2] == pytest.approx([1.0, 0.25], abs=1e-5)


def test_it_opens_at_the_slow_rate() -> None:
    gate = gate_of()
    for number in range(9):
        call(gate, number * 0.1, ok=True, seconds=0.012 if number % 5 else 0.001)
    before = gate.state
    call(gate, 0.9, ok=True, seconds=0.010)

    assert (before, gate.state) == (State.CLOSED, State.OPEN), "eight of ten took slow_s or more"


def test_failures_and_slow_calls_together_count_as_slow() -> None:
    gate = gate_of()
    for number in range(10):
        call(gate, number * 0.1, ok=number % 3 != 0, seconds=0.001 if number in {1, 2} else 0.02)

    assert gate.state is State.OPEN


def test_what_is_older_than_the_window_no_longer_counts() -> None:
    gate = gate_of()
    for _ in range(9):
        call(gate, 0.0, ok=False)
    for number in range(9):
        call(gate, 10.5 + number * 0.1, ok=True)
    call(gate, 11.5, ok=False)

    assert gate.state is State.CLOSED, "one of ten in the last ten seconds"


def test_while_it_is_open_nothing_passes_until_its_time() -> None:
    gate = opened()
    since = gate.since

    assert not any(gate.admit(since + 0.999 * part) for part in (0.0, 0.5, 1.0))
    permit = gate.admit(since + 1.001)

    assert permit is not None
    assert permit.is_probe
    assert gate.state is State.PROBING


def test_one_probe_at_a_time() -> None:
    gate = opened()
    permit = gate.admit(2.0)
    assert permit is not None

    assert all(gate.admit(2.0 + 0.01 * number) is None for number in range(100))
    gate.settle(permit, 3.0, succeeded=True, seconds=0.001)

    assert gate.admit(3.0) is not None
    assert gate.admit(3.0) is None


def test_a_failed_probe_opens_it_for_its_whole_time() -> None:
    gate = opened()
    call(gate, 2.0, ok=True)

    call(gate, 2.5, ok=False)

    assert gate.state is State.OPEN
    assert gate.admit(2.5 + 0.99) is None
    assert gate.admit(2.5 + 1.01) is not None


def test_a_cancelled_probe_gives_its_place_back_and_decides_nothing() -> None:
    gate = opened()
    permit = gate.admit(2.0)
    assert permit is not None

    assert gate.settle(permit, 2.1, succeeded=None, seconds=0.1) is None

    assert gate.state is State.PROBING
    assert gate.admit(2.1) is not None


def test_a_probe_that_never_comes_back_does_not_wedge_it() -> None:
    gate = opened()
    assert gate.admit(2.0) is not None

    assert gate.admit(6.9) is None
    assert gate.admit(7.1) is not None


def test_a_probe_that_comes_back_after_it_was_given_up_counts_for_nothing() -> None:
    gate = opened()
    lost = gate.admit(2.0)
    probe = gate.admit(7.1)
    assert lost is not None
    assert probe is not None

    assert gate.settle(lost, 7.2, succeeded=False, seconds=5.2) is None

    assert gate.state is State.PROBING
    assert gate.admit(7.3) is None, "the place is still the other's"


def test_slow_probes_do_not_bring_it_back() -> None:
    gate = opened()
    now = 2.0
    while now < 10.0:
        assert call(gate, now, ok=True, seconds=0.02)
        now += 0.1

    assert gate.state is State.PROBING


def test_it_comes_back_after_healthy_s_and_ramp_s() -> None:
    gate = opened(draw=0.0)
    begun = now = gate.since + LIMITS.open_s
    changes: dict[State, float] = {}
    while now < begun + 5:
        call(gate, now, ok=True)
        changes.setdefault(gate.state, now)
        now += 0.01

    assert changes[State.RAMPING] - begun == pytest.approx(LIMITS.healthy_s, abs=0.03)
    assert changes[State.CLOSED] - begun == pytest.approx(LIMITS.healthy_s + LIMITS.ramp_s, abs=0.05)


def ramping(draw: float) -> Gate:
    gate = opened(draw=draw)
    now = gate.since + LIMITS.open_s
    while gate.state is not State.RAMPING:
        call(gate, now, ok=True)
        now += 0.01
    return gate


@pytest.mark.parametrize("draw", [0.1, 0.5, 0.9])
def test_the_ramp_lets_a_growing_share_through(draw: float) -> None:
    gate = ramping(draw)

    let_through = [gate.admit(gate.since + part * LIMITS.ramp_s) is not None for part in (0.0, 0.05, 0.2, 0.6, 0.95)]

    assert let_through == [part > draw for part in (0.0, 0.05, 0.2, 0.6, 0.95)]


def test_the_ramp_ends_in_all() -> None:
    gate = ramping(0.999999)

    assert gate.admit(gate.since + LIMITS.ramp_s) is not None


def test_failing_on_the_ramp_opens_it_again() -> None:
    gate = ramping(0.0)
    begun = gate.since
    for number in range(LIMITS.min_calls):
        call(gate, begun + 0.1 + number * 0.01, ok=False)

    assert gate.state is State.OPEN


def test_the_run_that_opened_it_does_not_go_on_on_the_ramp() -> None:
    gate = ramping(0.0)

    call(gate, gate.since + 0.1, ok=False)

    assert gate.state is State.RAMPING


def test_an_outcome_of_an_older_generation_is_dropped() -> None:
    gate = gate_of()
    late = [gate.admit(0.0) for _ in range(50)]
    for _ in range(LIMITS.min_calls):
        call(gate, 0.0, ok=False)
    since = gate.since
    for permit in late[:25]:
        assert permit is not None
        assert gate.settle(permit, 0.5, succeeded=True, seconds=0.5) is None
    probe = gate.admit(2.0)
    assert probe is not None
    for permit in late[25:]:
        assert permit is not None
        assert gate.settle(permit, 2.0, succeeded=False, seconds=2.0) is None

    assert (gate.state, gate.admit(2.0)) == (State.PROBING, None), "late outcomes freed no place and decided nothing"
    assert gate.since >= since


def test_a_flapping_source_gets_probes_only() -> None:
    """Up for .3 s, down for .3 s: never healthy for healthy_s, so never given its share back."""
    gate = opened()
    served, states = 0, set()
    for tick in range(60_000):
        now = 1.0 + tick * 0.001
        served += call(gate, now, ok=int(now / 0.3) % 2 == 0)
        states.add(gate.state)

    assert states <= {State.OPEN, State.PROBING}
    assert served <= 60 * 0.3 / (1.0 + 0.3) * 1000, "at most one at a time while it is up, nothing for open_s after"


def test_a_probing_gate_that_gets_one_failure_in_many_threads_counts_it_once() -> None:
    gate = opened()
    probe = gate.admit(2.0)
    assert probe is not None

    assert gate.settle(probe, 2.0, succeeded=False, seconds=0.001) is State.OPEN
    assert gate.settle(probe, 2.0, succeeded=False, seconds=0.001) is None


class Gates(RuleBasedStateMachine):
    """Calls that begin and end in any order, on a clock turned by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.limits = Limits(window_s=2, min_calls=4, open_s=1, healthy_s=0.5, ramp_s=0.5)
        self.gate = Gate(self.limits, rng=Random(7), now=0.0)
        self.out: list[tuple[Permit, float]] = []
        self.opened_at = -9.0

    @rule(seconds=st.floats(0.0, 1.5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_begins(self) -> None:
        state, since = self.gate.state, self.gate.since
        permit = self.gate.admit(self.now)
        if state is State.CLOSED:
            assert permit is not None
        if state is State.OPEN:
            assert (permit is not None) == (self.now - since >= self.limits.open_s)
        if permit is not None:
            assert permit.is_probe == (self.gate.state is State.PROBING)
            self.out.append((permit, self.now))

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 99), outcome=st.sampled_from([True, False, False, None]))
    def a_call_ends(self, which: int, outcome: bool | None) -> None:
        permit, begun = self.out.pop(which % len(self.out))
        before = self.gate.state, self.gate.since
        is_late = permit.generation != self.gate._generation
        told = self.gate.settle(permit, self.now, succeeded=outcome, seconds=self.now - begun)
        after = self.gate.state, self.gate.since
        if is_late or outcome is None:
            assert told is None
        if told is None:
            assert after == before
        else:
            assert told is self.gate.state
            assert (before[0], told) in {
                (State.CLOSED, State.OPEN),
                (State.PROBING, State.OPEN),
                (State.PROBING, State.RAMPING),
                (State.RAMPING, State.OPEN),
                (State.RAMPING, State.CLOSED),
            }

    @invariant()
    def at_most_one_probe_is_out(self) -> None:
        probes = [
            begun
            for permit, begun in self.out
            if permit.is_probe and permit.generation == self.gate._generation and self.now - begun < 5
        ]
        assert len(probes) <= 1

    def teardown(self) -> None:
        """Whatever happened, a source that is well again gets all of its share back."""
        for permit, begun in self.out:
            self.gate.settle(permit, self.now, succeeded=None, seconds=self.now - begun)
        until = self.now + 2 * self.limits.window_s + 5
        while self.now < until:
            self.now += 0.05
            call(self.gate, self.now, ok=True)
        assert self.gate.state is State.CLOSED


TestGates = Gates.TestCase
TestGates.settings = settings(max_examples=60, stateful_step_count=40)
