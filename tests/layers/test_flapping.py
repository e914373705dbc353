"""A source that comes and goes: how long it must be well before it is trusted, and who reads it till then."""

from __future__ import annotations

from random import Random

import pytest

from featurechaos.layers.breaker import Gate, Limits, State

LIMITS = Limits(min_calls=10)
STEP_S = 0.01


class Source:
    """A gate in time: requests each 10 ms, and a keeper's probes where one is at work."""

    def __init__(self, *, is_kept: bool, limits: Limits = LIMITS) -> None:
        self.gate, self.now, self.is_kept = Gate(limits, rng=Random(7), now=0.0), 0.0, is_kept
        self.changes: list[tuple[float, State]] = []
        self.probed_by_requests = self.asked_in_vain = 0

    def run(self, seconds: float, *, good_s: float, bad_s: float, first_bad: bool = True) -> None:
        """Requests against a source that is bad and good in turns."""
        begun = self.now
        while self.now - begun < seconds - 1e-9:
            at = (self.now - begun) % (good_s + bad_s)
            ok = at >= bad_s if first_bad else at < good_s
            if self.is_kept and self.gate.keep(self.now, for_s=1.0) == 0:
                self._call(ok=ok, is_keeper=True)
            self._call(ok=ok)
            self.now += STEP_S

    def until(self, state: State, *, good_s: float, bad_s: float) -> None:
        while self.gate.state is not state:
            self.run(STEP_S, good_s=good_s, bad_s=bad_s)

    def _call(self, *, ok: bool, is_keeper: bool = False) -> None:
        permit = self.gate.admit(self.now, is_keeper=is_keeper)
        if permit is None:
            return
        self.probed_by_requests += permit.is_probe and not is_keeper
        self.asked_in_vain += not ok and not is_keeper
        change = self.gate.settle(permit, self.now, succeeded=ok, seconds=0.001)
        if change is not None and not (change is State.OPEN and permit.is_probe):
            self.changes.append((self.now, change))

    @property
    def switches(self) -> list[State]:
        """Each time that users were sent elsewhere, or back."""
        return [state for _, state in self.changes if state is not State.CLOSED]


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "by requests"])
@pytest.mark.parametrize("first_bad", [True, False])
@pytest.mark.parametrize("healthy_before_s", [0, 3, 30])
def test_one_second_bad_and_one_good_for_twenty_switches_twice(
    is_kept: bool, first_bad: bool, healthy_before_s: int
) -> None:
    source = Source(is_kept=is_kept)
    source.run(healthy_before_s, good_s=1, bad_s=0)

    source.run(20, good_s=1, bad_s=1, first_bad=first_bad)
    ended = source.now
    source.run(10, good_s=1, bad_s=0)

    assert source.switches == [State.OPEN, State.RAMPING], "away once and back once"
    assert source.gate.state is State.CLOSED
    assert source.changes[-1][0] <= ended + (0.3 if is_kept else 1.0) + 1.0 + 2.0 + 0.1
    most = 0.5 / STEP_S + 2
    assert source.asked_in_vain <= most + (0 if is_kept else 30), "the bad half second it took to see; then probes"


@pytest.mark.parametrize("good_s", [1.2, 1.5, 2.0, 3.0, 5.0, 7.0])
def test_longer_spells_of_health_are_believed_less_and_less(good_s: float) -> None:
    source = Source(is_kept=True)

    source.run(120, good_s=good_s, bad_s=1)

    late = [state for at, state in source.changes if at > 60 and state is State.OPEN]
    assert len(source.switches) <= 9
    assert late == []


def test_after_a_healthy_stretch_it_is_trusted_as_before() -> None:
    source = Source(is_kept=True)
    source.run(30, good_s=2.0, bad_s=1)
    wary_s = source.gate.healthy_s

    source.run(30, good_s=1, bad_s=0)
    source.run(10, good_s=0, bad_s=1)
    ended = source.now
    source.run(10, good_s=1, bad_s=0)

    assert wary_s > LIMITS.healthy_s
    assert source.gate.healthy_s == LIMITS.healthy_s
    assert source.gate.state is State.CLOSED
    assert source.changes[-1][0] <= ended + 1.2 + 1.0 + 2.0 + 0.1


def test_how_long_it_must_be_well_is_bounded() -> None:
    source = Source(is_kept=True)

    waits = []
    for _ in range(6):
        source.until(State.OPEN, good_s=0, bad_s=1)
        waits.append(source.gate.healthy_s)
        source.until(State.RAMPING, good_s=1, bad_s=0)

    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_one_long_outage_costs_no_trust() -> None:
    source = Source(is_kept=True)

    source.run(60, good_s=0, bad_s=1)
    source.run(1.2 + 1.0 + 2.0 + 0.2, good_s=1, bad_s=0)

    assert source.gate.state is State.CLOSED


@pytest.mark.parametrize("away_s", [0.7, 3, 6, 12])
def test_a_return_is_noticed_within_a_quarter_of_a_second_or_a_fortieth_of_the_time_away(away_s: float) -> None:
    source = Source(is_kept=True)
    source.run(5, good_s=1, bad_s=0)

    source.run(away_s, good_s=0, bad_s=1)
    ended = source.now
    assert source.switches == [State.OPEN]
    source.until(State.RAMPING, good_s=1, bad_s=0)

    first_s = max(0.0, LIMITS.open_s + 0.5 - away_s)
    waits_s = 1.2 * (first_s or max(0.25, away_s / 40))
    assert source.now - ended <= waits_s + LIMITS.healthy_s + 0.12


def test_while_a_keeper_probes_no_request_does() -> None:
    source = Source(is_kept=True)

    source.run(30, good_s=0, bad_s=1)

    assert source.probed_by_requests == 0
    assert source.asked_in_vain == LIMITS.min_calls


def test_a_keeper_that_has_gone_leaves_the_probes_to_requests() -> None:
    source = Source(is_kept=True)
    source.run(5, good_s=0, bad_s=1)

    source.is_kept = False
    source.run(10, good_s=1, bad_s=0)

    assert source.probed_by_requests > 0
    assert source.gate.state is State.CLOSED


def test_a_keeper_probes_ten_times_before_it_is_believed() -> None:
    gate, now, probes = Gate(LIMITS, rng=Random(7), now=0.0), 0.0, 0
    for _ in range(LIMITS.min_calls):
        permit = gate.admit(now)
        assert permit is not None
        gate.settle(permit, now, succeeded=False, seconds=0.015)
    while (wait_s := gate.keep(now, for_s=1.0)) is not None:
        now += wait_s
        permit = gate.admit(now, is_keeper=True)
        if permit is not None:
            probes += 1
            gate.settle(permit, now, succeeded=True, seconds=0.001)

    assert gate.state is State.RAMPING
    assert probes == pytest.approx(11, abs=1)
    assert LIMITS.open_s + LIMITS.healthy_s <= now <= 1.2 * LIMITS.open_s + LIMITS.healthy_s + 0.15


def test_a_gate_that_is_held_is_not_probed_and_is_once_it_is_released() -> None:
    source = Source(is_kept=True)
    source.run(2, good_s=0, bad_s=1)

    source.gate.hold(source.now)
    waits = [source.gate.keep(source.now + at, for_s=1.0) for at in range(5)]
    source.gate.release(source.now + 5)
    source.now += 5
    source.run(1.2 + 1.0 + 2.0 + 0.2, good_s=1, bad_s=0)

    assert waits == [1.0] * 5
    assert (source.gate.state, source.probed_by_requests) == (State.CLOSED, 0)


def test_a_gate_that_is_not_away_wants_no_keeper() -> None:
    assert Gate(LIMITS, rng=Random(7), now=0.0).keep(0.0, for_s=1.0) is None
