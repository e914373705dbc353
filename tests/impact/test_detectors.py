"""Alarms: how soon, how seldom for nothing, and how they add."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest

from featurechaos.errors import RequestError
from featurechaos.impact.counters import Block
from featurechaos.impact.detectors import Alarm, Cusum, EProcess, PsiAlarm

BUDGET = 0.02


def delay(detector: Cusum | EProcess, rate: float, rng: np.random.Generator) -> int:
    """Batches of 100 until the alarm, after 100 batches at half the budget."""
    for flips in rng.binomial(100, BUDGET / 2, 100).tolist():
        detector.update(flips, 100)
    for batches in range(1, 1000):
        if detector.update(int(rng.binomial(100, rate)), 100):
            return batches
    return 1000


@pytest.mark.parametrize(("rate", "soonest", "latest"), [(0.05, 4, 12), (0.1, 2, 3), (0.2, 1, 1)])
def test_cusum_sees_a_change_soon_after_a_long_healthy_run(rate: float, soonest: int, latest: int) -> None:
    rng = np.random.default_rng(21)

    got = np.median([delay(Cusum(BUDGET), rate, rng) for _ in range(15)])

    assert soonest <= got <= latest


def test_an_e_process_looks_from_its_start_and_so_takes_longer() -> None:
    rng = np.random.default_rng(22)

    got = np.median([delay(EProcess(BUDGET), 0.1, rng) for _ in range(15)])

    assert 15 <= got <= 40


def test_cusum_at_the_budget_itself_raises_no_false_alarm() -> None:
    rng = np.random.default_rng(23)
    detector = Cusum(BUDGET)

    for flips in rng.binomial(100, BUDGET, 3000).tolist():
        detector.update(flips, 100)

    assert detector.alarm.fired == 0


def test_cusum_of_a_low_level_does_raise_them_about_as_often_as_it_may() -> None:
    rng = np.random.default_rng(24)
    detector = Cusum(BUDGET, level=20)

    for flips in rng.binomial(100, BUDGET, 3000).tolist():
        detector.update(flips, 100)

    assert 1 <= detector.alarm.fired <= 3000 / 20


def test_an_e_process_is_wrong_less_often_than_alpha() -> None:
    rng = np.random.default_rng(25)

    wrong = 0
    for _ in range(150):
        guard = EProcess(BUDGET, alpha=0.05)
        wrong += any(guard.update(flips, 100) for flips in rng.binomial(100, BUDGET, 60).tolist())

    assert wrong <= 150 * 0.05


def test_batches_may_be_of_any_size() -> None:
    whole, halves, guard, other = Cusum(BUDGET), Cusum(BUDGET), EProcess(BUDGET), EProcess(BUDGET)

    whole.update(20, 100)
    halves.update(10, 50)
    halves.update(10, 50)
    guard.update(20, 100)
    for flip in [1, 0, 0, 0, 0] * 20:
        other.update(flip, 1)

    assert whole.log_e == pytest.approx(halves.log_e, abs=0.5)
    assert guard.log_e == pytest.approx(other.log_e)


def test_evidence_is_the_likelihood_ratio_against_the_budget() -> None:
    guard = EProcess(0.5)

    guard.update(3, 4)

    rates = np.geomspace(0.7, 0.9, 9)
    assert guard.log_e == pytest.approx(math.log(np.mean((rates / 0.5) ** 3 * (1 - rates) / 0.5)))


def test_cusum_goes_off_again_when_flips_end_and_counts_each_time() -> None:
    detector = Cusum(BUDGET)
    told = [detector.update(flips, 100) for flips in [50] * 200 + [0] * 20 + [50] * 3]

    assert told[0]
    assert told[199]
    assert not told[219]
    assert detector.alarm.fired == 2
    assert detector.alarm.first_at == 100


def test_an_e_process_stays_on() -> None:
    guard = EProcess(BUDGET)
    guard.update(90, 100)

    assert guard.update(0, 100_000)
    assert guard.alarm == Alarm(BUDGET, 100.0, is_on=True, fired=1, first_at=100, log_e=guard.log_e)


def test_an_empty_batch_changes_nothing() -> None:
    detector = Cusum(BUDGET)
    detector.update(50, 100)
    before = detector.alarm

    assert detector.update(0, 0)
    assert detector.alarm == before


def test_every_flip_of_everything_is_still_a_number() -> None:
    detector = Cusum(1e-6)

    assert detector.update(10**9, 10**9)
    assert math.isfinite(detector.log_e)


def test_alarms_add_up_to_on_somewhere() -> None:
    off = Alarm(BUDGET, 1e4, log_e=1.0)
    on = Alarm(BUDGET, 1e4, is_on=True, fired=2, first_at=300, log_e=12.0)
    later = Alarm(BUDGET, 1e4, is_on=False, fired=1, first_at=500, log_e=2.0)

    assert reduce(Alarm.__add__, [off, on, later]) == Alarm(BUDGET, 1e4, True, 3, 300, 12.0)
    assert off + on == on + off


def test_alarms_of_two_budgets_do_not_add() -> None:
    with pytest.raises(RequestError, match=r"one budget and level add up, got 0\.02 at 10000 and 0\.05"):
        Alarm(BUDGET, 1e4) + Alarm(0.05, 1e4)


@pytest.mark.parametrize("budget", [0, 1, -0.1, 1.5, float("nan")])
def test_a_budget_that_is_no_share_is_refused(budget: float) -> None:
    with pytest.raises(RequestError, match="a flip budget is a share within"):
        Cusum(budget)


@pytest.mark.parametrize("budget", [1e-6, 0.02, 0.5, 0.89, 0.95, 0.999])
def test_any_budget_has_rates_above_it(budget: float) -> None:
    detector = Cusum(budget)

    assert detector.update(100_000, 100_000)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(RequestError, match="got 3 flips of 2 pairs"):
        Cusum(BUDGET).update(3, 2)
    with pytest.raises(RequestError, match="an alarm level is above 1"):
        Cusum(BUDGET, level=1)
    with pytest.raises(RequestError, match="alpha is within"):
        EProcess(BUDGET, alpha=0)


def test_a_drift_alarm_sees_defaults_and_not_staleness() -> None:
    rng = np.random.default_rng(26)
    reference = rng.beta(1.2, 4.5, 2000)
    stale, default = rng.permutation(reference), np.full(2000, 0.35)

    def is_on(served: np.ndarray[tuple[int], np.dtype[np.float64]], rows: int = 2000) -> bool:
        few, clean = served[:rows], reference[:rows]
        return PsiAlarm().is_on(Block.of(few, clean, few >= 0.3, clean >= 0.3))

    assert is_on(default)
    assert not is_on(stale)
    assert not is_on(default, rows=100)
