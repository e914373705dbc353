"""PSI and KS from 64 bins against their definitions on the scores themselves."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from featurechaos.impact.counters import Block
from featurechaos.impact.drift import ks, psi

Floats = NDArray[np.float64]


def plain_psi(reference: Floats, served: Floats) -> float:
    edges = np.quantile(reference, np.linspace(0, 1, 11)[1:-1])
    wanted = np.bincount(np.searchsorted(edges, reference), minlength=10) / len(reference)
    came = np.bincount(np.searchsorted(edges, served), minlength=10) / len(served)
    return float(((came - wanted) * np.log(came / wanted)).sum())


def plain_ks(reference: Floats, served: Floats) -> float:
    at = np.concatenate([reference, served])
    upto = [np.searchsorted(np.sort(side), at, side="right") / len(side) for side in (reference, served)]
    return float(np.abs(upto[0] - upto[1]).max())


def counted(reference: Floats, served: Floats) -> Block:
    return Block.of(served, reference, served >= 0.3, reference >= 0.3)


def delays(rng: np.random.Generator, rows: int = 20_000) -> Floats:
    """Scores spread like those of the flights model: most low, base rate about .2."""
    return rng.beta(1.2, 4.5, rows)


@pytest.mark.parametrize(("shift", "width"), [(0.03, 0.02), (0.05, 0.1), (0.15, 0.05), (-0.05, 0.01)])
def test_shifted_scores_have_the_psi_and_ks_of_the_definition(shift: float, width: float) -> None:
    rng = np.random.default_rng(11)
    reference = delays(rng)
    served = np.clip(delays(rng) + rng.normal(shift, width, len(reference)), 0, 1)

    got = counted(reference, served)

    assert got.psi == pytest.approx(plain_psi(reference, served), rel=0.25)
    assert got.ks == pytest.approx(plain_ks(reference, served), abs=0.02)
    assert got.ks <= plain_ks(reference, served) + 1e-9


def test_stale_scores_flip_decisions_and_leave_psi_where_it_was() -> None:
    """Yesterday's features: the same distribution, another pairing."""
    rng = np.random.default_rng(12)
    reference = delays(rng)
    noise = rng.permutation(reference)
    served = np.sort(reference)[np.argsort(np.argsort(0.7 * reference + 0.5 * noise))]

    got = counted(reference, served)

    assert got.flip_rate > 0.1
    assert got.psi < 1e-9
    assert got.ks == 0


def test_two_samples_of_one_distribution_are_within_what_chance_gives() -> None:
    rng = np.random.default_rng(13)

    got = counted(delays(rng), delays(rng))

    assert 0 < got.psi < 6 * 2 * 9 / 20_000
    assert got.psi == pytest.approx(plain_psi(delays(rng), delays(rng)), abs=0.002)


def test_a_bin_of_more_than_a_tenth_stays_whole() -> None:
    reference, served = np.zeros(64, np.int64), np.zeros(64, np.int64)
    reference[[3, 40]] = 900, 100
    served[[3, 40]] = 800, 200

    got = psi(reference, served)

    assert got == pytest.approx(0.1 * np.log(9 / 8) + 0.1 * np.log(2), rel=0.01)


def test_scores_where_the_reference_has_none_join_the_run_around_them() -> None:
    reference, served = np.zeros(64, np.int64), np.zeros(64, np.int64)
    reference[10], served[50] = 1000, 1000

    assert psi(reference, served) == 0
    assert ks(reference, served) == 1


def test_an_empty_side_has_no_distance() -> None:
    empty, some = np.zeros(64, np.int64), np.ones(64, np.int64)

    assert np.isnan([psi(empty, some), psi(some, empty), ks(empty, some), ks(some, empty)]).all()
