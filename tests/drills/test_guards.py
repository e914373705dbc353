"""Guards: they stop a runaway soon, and looking often does not make them stop more."""

from __future__ import annotations

import numpy as np
import pytest

from featurechaos.drills.guards import Guard, guards_of
from featurechaos.drills.history import History, Record, Request
from featurechaos.drills.probes import ErrorRate, NoDataS
from featurechaos.drills.window import Window
from tests.drills.histories import kill_script


def second(number: int, failed: int, *, of: int = 100) -> Window:
    """One second of `of` requests with some failed."""
    records: list[Record] = [
        Request(
            t=number + at / of, t_done=number + at / of, latency_s=0.001, request_id=f"{number}-{at}", ok=at >= failed
        )
        for at in range(of)
    ]
    return Window.of(History(tuple(records))).between(number, number + 1)


def stops_at(rate: float, *, seconds: int, seed: int) -> int | None:
    guard, rng = Guard(ErrorRate(probe="error_rate", max=0.02)), np.random.default_rng(seed)
    for number in range(seconds):
        state = guard.look(second(number, int(rng.binomial(100, rate))))
        if state and state.tripped:
            return number
    return None


def test_a_runaway_is_stopped_within_seconds() -> None:
    assert all((stops_at(0.3, seconds=20, seed=seed) or 0) <= 1 for seed in range(5))


def test_looking_every_second_at_the_very_bound_stops_almost_nothing() -> None:
    assert sum(stops_at(0.02, seconds=60, seed=seed) is not None for seed in range(20)) <= 1


def test_a_guard_at_zero_trips_on_the_first_failure() -> None:
    guard = Guard(ErrorRate(probe="error_rate", max=0))

    assert (state := guard.look(second(0, 0))) is not None and not state.tripped
    assert (state := guard.look(second(1, 1))) is not None and state.tripped
    assert state.detail == "share of requests that failed is 1 %"


def test_silence_is_counted_on_from_stretch_to_stretch() -> None:
    guard, nothing = Guard(NoDataS(probe="no_data_s", max=2.5)), Window.of(History(()))
    guard.look(second(0, 0))

    told = [guard.look(nothing.between(begin, begin + 1)) for begin in (1, 2, 3)]

    assert [state.tripped for state in told if state] == [False, False, True]


def test_guards_share_their_doubt() -> None:
    script = kill_script(
        guards=[{"probe": "error_rate", "max": 0.1}, {"probe": "flip_rate", "max": 0.4, "alpha": 0.02}]
    )

    assert [guard.alpha for guard in guards_of(script)] == pytest.approx([0.005, 0.01])
