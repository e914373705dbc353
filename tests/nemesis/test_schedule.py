"""The schedule: the same for the same seed, and never without one of the faults."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.nemesis.schedule import FAULTS, LOOK_S, ONLINE_FAULTS, RECOVER_S, schedule


def test_a_seed_replays() -> None:
    assert schedule(60, 7) == schedule(60, 7)
    assert schedule(60, 7) != schedule(60, 8)


@pytest.mark.parametrize("seed", range(20))
def test_a_minute_has_every_fault(seed: int) -> None:
    assert {strike.fault for strike in schedule(60, seed)} == set(FAULTS)


@pytest.mark.parametrize("seed", range(5))
def test_twenty_minutes_have_every_fault_five_times_and_two_hundred_in_all(seed: int) -> None:
    counts = Counter(strike.fault for strike in schedule(1200, seed))

    assert min(counts[fault] for fault in FAULTS) > 5
    assert sum(counts.values()) > 200


@pytest.mark.parametrize("seconds", [30, 60, 100, 1200])
def test_each_fault_on_the_stores_leaves_the_time_to_recover_and_to_look(seconds: float) -> None:
    online = [strike for strike in schedule(seconds, 3) if strike.fault in ONLINE_FAULTS]

    for one, following in pairwise(online):
        assert one.at_s + one.for_s + RECOVER_S + LOOK_S <= following.at_s + 1e-9
    assert online[-1].at_s + online[-1].for_s + RECOVER_S + LOOK_S <= seconds + 0.01


@pytest.mark.parametrize("seed", range(5))
def test_both_stores_are_hit_at_once_and_the_primary_alone(seed: int) -> None:
    counts = Counter(strike.target for strike in schedule(60, seed) if strike.fault in ONLINE_FAULTS)

    assert min(counts["both"], counts["primary"]) >= 4


def test_a_run_too_short_for_anything_has_nothing() -> None:
    assert schedule(3, 1) == ()
