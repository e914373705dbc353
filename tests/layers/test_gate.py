"""One source's breaker as a state machine: probes, generations, rates over time, the way back."""

from __future__ import annotations

from itertools import cycle
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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
