"""Blocks: what they count, that they add up exactly, what they refuse."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from featurechaos.errors import RequestError
from featurechaos.impact.counters import GRID, Block
from featurechaos.impact.kind import Kind

Floats = NDArray[np.float64]

scores = st.one_of(st.sampled_from([0.0, 1.0, 0.3, 0.5, 1 / 64, 63 / 64]), st.floats(0, 1))
streams = st.lists(st.tuples(scores, scores), max_size=60)
cuts = st.lists(st.integers(0, 60), max_size=6)


def block(pairs: list[tuple[float, float]], *, threshold: float = 0.3) -> Block:
    served, reference = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    return Block.of(served, reference, served >= threshold, reference >= threshold)


def offline(pairs: list[tuple[float, float]], *, threshold: float = 0.3) -> dict[str, Any]:
    """The same counters by a plain loop over stored pairs."""
    told: dict[str, Any] = {name: [0] * 64 for name in ("reference_bins", "served_bins", "delta_bins")}
    told |= {"decided": [0] * 6, "delta": 0, "abs_delta": 0, "square_delta": 0, "max_abs_delta": 0}
    for served, reference in pairs:
        s, r = int(served * GRID), int(reference * GRID)
        told["served_bins"][min(63, s * 64 // GRID)] += 1
        told["reference_bins"][min(63, r * 64 // GRID)] += 1
        told["delta_bins"][min(63, abs(s - r) * 64 // GRID)] += 1
        told["decided"][2 * (served >= threshold) + (reference >= threshold)] += 1
        told["delta"] += s - r
        told["abs_delta"] += abs(s - r)
        told["square_delta"] += (s - r) ** 2 // GRID
        told["max_abs_delta"] = max(told["max_abs_delta"], abs(s - r))
    return told


@given(streams, cuts)
def test_any_split_adds_up_to_a_plain_loop_over_the_pairs(pairs: list[tuple[float, float]], places: list[int]) -> None:
    edges = [0, *sorted(min(place, len(pairs)) for place in places), len(pairs)]
    parts = [block(pairs[a:b]) for a, b in pairwise(edges)]

    got = reduce(Block.__add__, reversed(parts), Block.empty())

    told = got.to_dict()
    del told["kind"]
    assert told == offline(pairs)
    assert got == block(pairs)
    assert hash(got) == hash(block(pairs))


@given(streams, streams)
def test_subtracting_an_earlier_state_leaves_what_came_since(
    before: list[tuple[float, float]], since: list[tuple[float, float]]
) -> None:
    early = block(before)
    late = early + block(since)

    got = late - early

    wanted = block(since)
    np.testing.assert_array_equal(got.counts, wanted.counts)
    assert wanted.most <= got.most <= wanted.most + GRID // 64
    assert early + got == late


@given(streams)
def test_a_block_survives_json(pairs: list[tuple[float, float]]) -> None:
    got = Block.from_dict(json.loads(json.dumps(block(pairs).to_dict())))

    assert got == block(pairs)


def test_blocks_of_threads_add_up_to_the_block_of_the_whole() -> None:
    rng = np.random.default_rng(7)
    served, reference = rng.random((40, 50)), rng.random((40, 50))

    def count(k: int) -> Block:
        return Block.of(served[k], reference[k], served[k] >= 0.3, reference[k] >= 0.3)

    with ThreadPoolExecutor(4) as pool:
        got = reduce(Block.__add__, pool.map(count, range(40)))

    flat, other = served.ravel(), reference.ravel()
    assert got == Block.of(flat, other, flat >= 0.3, other >= 0.3)


def test_measures_are_those_of_the_pairs() -> None:
    rng = np.random.default_rng(3)
    reference = rng.beta(1, 4, 5000)
    served = np.clip(reference + rng.normal(0.02, 0.08, 5000), 0, 1)

    got = Block.of(served, reference, served >= 0.3, reference >= 0.3)

    delta = served - reference
    assert got.pairs == 5000
    assert got.flips_up == np.count_nonzero((served >= 0.3) & (reference < 0.3))
    assert got.flips_down == np.count_nonzero((served < 0.3) & (reference >= 0.3))
    assert got.flip_rate == (got.flips_up + got.flips_down) / 5000
    assert got.alerts_served == np.count_nonzero(served >= 0.3)
    assert got.alerts_reference == np.count_nonzero(reference >= 0.3)
    assert got.alert_rate_ratio == np.count_nonzero(served >= 0.3) / np.count_nonzero(reference >= 0.3)
    assert got.mean_delta == pytest.approx(delta.mean(), abs=2 / GRID)
    assert got.mean_abs_delta == pytest.approx(np.abs(delta).mean(), abs=2 / GRID)
    assert got.rms_delta == pytest.approx(np.sqrt((delta**2).mean()), abs=1e-5)
    assert got.max_abs_delta == pytest.approx(np.abs(delta).max(), abs=2 / GRID)
    for share in (0.5, 0.95, 0.99, 1.0):
        wanted = np.quantile(np.abs(delta), share)
        assert got.abs_delta_quantile(share) == pytest.approx(wanted, abs=1 / 64)


def test_no_pairs_give_no_rate_and_equal_scores_no_difference() -> None:
    same = block([(0.2, 0.2), (0.9, 0.9)])

    assert np.isnan([Block.empty().flip_rate, Block.empty().psi, Block.empty().ks]).all()
    assert np.isnan([Block.empty().alert_rate_ratio, Block.empty().abs_delta_quantile(0.5)]).all()
    assert (same.flips, same.mean_abs_delta, same.psi, same.ks) == (0, 0.0, 0.0, 0.0)
    assert same.abs_delta_quantile(0.99) == 0.0


def test_alerts_where_clean_features_give_none_are_infinitely_more() -> None:
    assert block([(0.9, 0.1)]).alert_rate_ratio == float("inf")


def test_decisions_may_be_one_of_several() -> None:
    served, reference = np.array([0, 1, 2, 0, 2, 3]), np.array([0, 1, 1, 2, 3, 0])

    got = Block.of(served / 4, reference / 4, served, reference)

    assert (got.pairs, got.flips_up, got.flips_down) == (6, 2, 2)
    assert (got.alerts_served, got.alerts_reference) == (4, 4)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_decisions_are_counted_by_what_two_say_together(decisions: list[tuple[int, int]]) -> None:
    served, reference = np.array(decisions).T

    got = Block.of(served / 4, reference / 4, served, reference)

    wanted = [0] * 6
    for up, ref in decisions:
        both = up > 0 and ref > 0
        wanted[4 if both and up > ref else 5 if both and up < ref else 2 * (up > 0) + (ref > 0)] += 1
    assert got.to_dict()["decided"] == wanted


def test_decisions_of_bool_and_int_count_alike() -> None:
    rng = np.random.default_rng(5)
    served, reference = rng.random(200), rng.random(200)
    up, ref = served >= 0.3, reference >= 0.3

    as_int = Block.of(served, reference, up.astype(np.int8), ref.astype(np.uint32))

    assert as_int == Block.of(served, reference, up, ref)


def test_scores_of_another_range_are_told_in_their_own_units() -> None:
    minutes = Kind("minutes", -60, 600)
    served, reference = np.array([-60.0, 30.0, 600.0]), np.array([0.0, 0.0, 570.0])

    got = Block.of(served, reference, served >= 15, reference >= 15, kind=minutes)

    assert got.mean_delta == pytest.approx(0, abs=1e-3)
    assert got.mean_abs_delta == pytest.approx(40, abs=1e-3)
    assert got.max_abs_delta == pytest.approx(60, abs=1e-3)
    assert got.served_bins[0] == got.served_bins[63] == 1


@pytest.mark.parametrize("width", [0.9, 3.6, 15.3, 660.0])
@pytest.mark.parametrize("low", [-0.3, 0.0])
def test_the_last_number_within_the_range_lands_in_the_last_bin(low: float, width: float) -> None:
    kind = Kind("narrow", low, low + width)
    last, first = np.array([np.nextafter(kind.high, low)]), np.array([low])

    got = Block.of(last, first, last > low, first > low, kind=kind)

    assert (got.served_bins[63], got.delta_bins[63], got.reference_bins[0]) == (1, 1, 1)
    assert (got.pairs, got.flips_up, got.served_bins.sum()) == (1, 1, 1)


def test_rounding_just_outside_the_range_lands_in_the_end_bins() -> None:
    got = block([(1 + 1e-9, -1e-9)])

    assert (got.served_bins[63], got.reference_bins[0]) == (1, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1.01, -0.01])
@pytest.mark.parametrize("side", ["served", "reference"])
def test_a_score_that_is_no_probability_is_refused(side: str, bad: float) -> None:
    good, wrong = np.array([0.1, 0.2]), np.array([0.1, bad])
    served, reference = (wrong, good) if side == "served" else (good, wrong)

    with pytest.raises(RequestError, match=rf"within 0\.\.1, got {bad} in row 1 of the {side} scores"):
        Block.of(served, reference, served > 0.3, reference > 0.3)


@pytest.mark.parametrize(
    ("decided", "message"),
    [
        (np.array([True]), r"2 pairs want as many decisions, got \(1,\)"),
        (np.array([0.5, 1.0]), "bool or int >= 0, got served ones of dtype float64"),
        (np.array([1, -1]), "bool or int >= 0, got served ones down to -1"),
    ],
)
def test_decisions_of_another_form_are_refused(decided: NDArray[Any], message: str) -> None:
    two = np.array([0.1, 0.2])

    with pytest.raises(RequestError, match=message):
        Block.of(two, two, decided, np.array([0, 1]))


def test_arrays_of_two_lengths_are_refused() -> None:
    with pytest.raises(RequestError, match=r"two arrays of n numbers, got \(2,\) served and \(3,\)"):
        Block.of([0.1, 0.2], [0.1, 0.2, 0.3], np.zeros(2, bool), np.zeros(2, bool))


def test_blocks_of_two_kinds_do_not_add() -> None:
    with pytest.raises(RequestError, match="blocks of one kind"):
        Block.empty() + Block.empty(Kind("minutes", 0, 60))


def test_a_block_that_is_no_earlier_state_is_not_subtracted() -> None:
    with pytest.raises(RequestError, match="an earlier state of itself"):
        block([(0.1, 0.1)]) - block([(0.9, 0.9)])


def broken(**changes: object) -> dict[str, Any]:
    return block([(0.1, 0.2)]).to_dict() | changes


@pytest.mark.parametrize(
    "told",
    [
        {},
        broken(served_bins=[0] * 63),
        broken(decided=[0, 0, 0, 0, 0, -1]),
        broken(delta="many"),
        broken(kind="probability"),
        broken(delta_bins=[1 << 70] + [0] * 63),
    ],
)
def test_a_block_is_not_read_from_anything_else(told: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="a block wants"):
        Block.from_dict(told)


def test_counts_cannot_be_written_from_outside() -> None:
    with pytest.raises(ValueError, match="read-only"):
        block([(0.1, 0.2)]).counts[0] = 5


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_a_kind_without_a_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(RequestError, match="wants finite low < high"):
        Kind("odd", low, high)
