"""Who is to blame for a pair, and counters by that."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from featurechaos.errors import RequestError
from featurechaos.impact.attribution import CLEAN_VIEW, Blame, attribute, is_degraded
from featurechaos.impact.counters import Block
from featurechaos.impact.pairs import Ledger, PairKey, Pairs, Scored
from featurechaos.model import Cause, Origin, Status


@dataclass(frozen=True)
class Truth:
    origin: NDArray[np.uint8]
    status: NDArray[np.uint8]
    cause: NDArray[np.uint8]
    injected: NDArray[np.bool_]


Row = tuple[Origin, Status, Cause, bool]
FRESH: Row = (Origin.PRIMARY, Status.PRESENT, Cause.NONE, False)
COPY: Row = (Origin.REPLICA, Status.PRESENT, Cause.TIMEOUT, False)
MISSED: Row = (Origin.NONE, Status.NOT_FOUND, Cause.MISSING, False)
FILLED: Row = (Origin.DEFAULT, Status.NOT_FOUND, Cause.MISSING, False)
OLD: Row = (Origin.PRIMARY, Status.EXPIRED, Cause.EXPIRED, False)
SNAPSHOT: Row = (Origin.SNAPSHOT, Status.PRESENT, Cause.TIMEOUT, False)
LAST_KNOWN: Row = (Origin.LAST_KNOWN, Status.EXPIRED, Cause.BREAKER_OPEN, False)
NOTHING: Row = (Origin.NONE, Status.UNAVAILABLE, Cause.TIMEOUT, False)
STALE: Row = (Origin.PRIMARY, Status.PRESENT, Cause.NONE, True)
ROWS = [FRESH, COPY, MISSED, FILLED, OLD, SNAPSHOT, LAST_KNOWN, NOTHING, STALE]
UNTOUCHED = [FRESH, COPY, MISSED, FILLED]


@dataclass(frozen=True)
class Served:
    rows: Mapping[str, list[Row]]

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(self.rows)

    def provenance(self, view: str) -> Truth:
        rows = self.rows[view]
        return Truth(
            np.array([row[0] for row in rows], np.uint8),
            np.array([row[1] for row in rows], np.uint8),
            np.array([row[2] for row in rows], np.uint8),
            np.array([row[3] for row in rows], bool),
        )

    def __len__(self) -> int:
        return len(next(iter(self.rows.values()), ()))


def scored(served: list[float], reference: list[float]) -> Scored:
    s, r = np.array(served), np.array(reference)
    return Scored(s, r, s >= 0.3, r >= 0.3)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_degraded_as_the_contract_says(row: Row) -> None:
    got = is_degraded(Served({"plane": [row]}).provenance("plane"))

    assert got.tolist() == [row in (OLD, SNAPSHOT, LAST_KNOWN, NOTHING)]


def test_a_response_of_one_sort_is_one_group() -> None:
    response = Served({"plane": [SNAPSHOT] * 3, "airport": [FRESH] * 3})

    (group,) = attribute(response)

    assert group.blames == (Blame("plane", Cause.TIMEOUT, Origin.SNAPSHOT),)
    assert group.rows is None


def test_every_degraded_view_gets_the_whole_pair() -> None:
    response = Served({"plane": [SNAPSHOT, FRESH, STALE], "airport": [LAST_KNOWN, FRESH, NOTHING]})

    groups = {int(row): group.blames for group in attribute(response) if group.rows is not None for row in group.rows}

    assert groups == {
        0: (
            Blame("plane", Cause.TIMEOUT, Origin.SNAPSHOT),
            Blame("airport", Cause.BREAKER_OPEN, Origin.LAST_KNOWN),
        ),
        1: (Blame(CLEAN_VIEW, Cause.NONE, Origin.PRIMARY),),
        2: (Blame("plane", Cause.NONE, Origin.PRIMARY), Blame("airport", Cause.TIMEOUT, Origin.NONE)),
    }


def test_a_clean_pair_has_the_origin_farthest_from_the_primary() -> None:
    response = Served({"plane": [FRESH, FRESH, MISSED], "airport": [COPY, MISSED, MISSED]})

    got = {group.blames[0].origin for group in attribute(response)}

    assert got == {Origin.REPLICA, Origin.PRIMARY, Origin.NONE}


@pytest.mark.parametrize("views", [1, 6, 7, 8, 9, 30])
def test_any_number_of_views_is_told_apart(views: int) -> None:
    response = Served({f"view{at}": [FRESH, SNAPSHOT if at == views - 1 else FRESH, FRESH] for at in range(views)})

    groups = {group.blames: None if group.rows is None else group.rows.tolist() for group in attribute(response)}

    assert groups == {
        (Blame(CLEAN_VIEW, Cause.NONE, Origin.PRIMARY),): [0, 2],
        (Blame(f"view{views - 1}", Cause.TIMEOUT, Origin.SNAPSHOT),): [1],
    }


def test_rows_not_kept_are_left_out() -> None:
    response = Served({"plane": [SNAPSHOT, FRESH, SNAPSHOT, SNAPSHOT]})
    keep = np.array([True, False, False, True])

    (group,) = attribute(response, keep=keep)

    assert group.rows is not None
    assert group.rows.tolist() == [0, 3]
    assert list(attribute(response, keep=np.zeros(4, bool))) == []


def test_an_empty_response_has_no_groups() -> None:
    assert list(attribute(Served({"plane": []}))) == []


@given(st.lists(st.tuples(st.sampled_from(ROWS), st.sampled_from(ROWS), st.booleans()), max_size=40))
def test_groups_are_a_partition_that_a_plain_loop_agrees_with(rows: list[tuple[Row, Row, bool]]) -> None:
    response = Served({"plane": [row[0] for row in rows], "airport": [row[1] for row in rows]})
    keep = np.array([row[2] for row in rows], bool)

    seen: Counter[int] = Counter()
    for group in attribute(response, keep=keep):
        assert group.rows is not None
        for k in group.rows.tolist():
            seen[k] += 1
            touched = [
                Blame(view, row[2], row[0])
                for view, row in zip(("plane", "airport"), rows[k], strict=False)
                if isinstance(row, tuple) and row not in UNTOUCHED
            ]
            assert list(group.blames) == touched or (not touched and group.blames[0].view == CLEAN_VIEW)

    assert seen == Counter(k for k, row in enumerate(rows) if row[2])


def test_pairs_are_counted_once_in_all_and_once_in_each_view_cause_and_origin() -> None:
    response = Served({"plane": [SNAPSHOT, SNAPSHOT, FRESH], "airport": [SNAPSHOT, FRESH, FRESH]})
    both = scored([0.9, 0.1, 0.2], [0.1, 0.1, 0.2])

    got = Pairs.of(both, attribute(response), model="delay")

    counted = {key: (block.pairs, block.flips) for key, block in got.keyed.items()}
    assert counted == {
        PairKey("delay", "plane", Cause.TIMEOUT, Origin.SNAPSHOT): (2, 1),
        PairKey("delay", "airport", Cause.TIMEOUT, Origin.SNAPSHOT): (1, 1),
        PairKey("delay", CLEAN_VIEW, Cause.NONE, Origin.PRIMARY): (1, 0),
    }
    assert (got.total.pairs, got.total.flips) == (3, 1)
    assert {origin: block.pairs for origin, block in got.origins.items()} == {
        Origin.SNAPSHOT: 2,
        Origin.PRIMARY: 1,
    }
    assert {cause: block.pairs for cause, block in got.causes.items()} == {Cause.TIMEOUT: 2, Cause.NONE: 1}
    assert {view: block.pairs for view, block in got.views.items()} == {
        "plane": 2,
        "airport": 1,
        CLEAN_VIEW: 1,
    }


stream = st.lists(
    st.tuples(st.sampled_from(ROWS), st.sampled_from(ROWS), st.floats(0, 1), st.floats(0, 1)), max_size=30
)


def counted(rows: list[tuple[Row, Row, float, float]]) -> Pairs:
    response = Served({"plane": [row[0] for row in rows], "airport": [row[1] for row in rows]})
    both = scored([row[2] for row in rows], [row[3] for row in rows])
    return Pairs.of(both, attribute(response), model="delay")


@given(stream, st.lists(st.integers(0, 30), max_size=5))
def test_any_split_of_a_stream_adds_up_to_the_last_integer(
    rows: list[tuple[Row, Row, float, float]], places: list[int]
) -> None:
    edges = [0, *sorted(min(place, len(rows)) for place in places), len(rows)]
    parts = [counted(rows[a:b]) for a, b in pairwise(edges)]

    got = reduce(Pairs.__add__, reversed(parts), Pairs())

    assert got == counted(rows)
    assert Pairs.from_dict(json.loads(json.dumps(got.to_dict()))) == got
    assert got.total.flips == sum((served >= 0.3) != (reference >= 0.3) for *_, served, reference in rows)
    snapshot = [row for row in rows if SNAPSHOT in row[:2]]
    flips = sum((served >= 0.3) != (reference >= 0.3) for *_, served, reference in snapshot)
    block = got.origins.get(Origin.SNAPSHOT, Block.empty())
    assert (block.pairs, block.flips) == (len(snapshot), flips)


@given(stream, stream)
def test_subtracting_an_earlier_state_leaves_what_came_since(
    before: list[tuple[Row, Row, float, float]], since: list[tuple[Row, Row, float, float]]
) -> None:
    early = counted(before) + Pairs(predictions=50, sampled=9)
    late = early + counted(since) + Pairs(predictions=7, failed=1)

    got = late - early

    wanted = counted(since)
    assert (got.predictions, got.sampled, got.failed) == (7, 0, 1)
    np.testing.assert_array_equal(got.total.counts, wanted.total.counts)
    assert {key: block.flips for key, block in got.keyed.items()} == {
        key: block.flips for key, block in wanted.keyed.items()
    }


def test_pairs_that_are_no_earlier_state_are_not_subtracted() -> None:
    with pytest.raises(RequestError, match="an earlier state"):
        Pairs() - counted([(SNAPSHOT, FRESH, 0.1, 0.2)])


@pytest.mark.parametrize("told", [{}, Pairs().to_dict() | {"keyed": [{}]}, Pairs().to_dict() | {"origins": 3}])
def test_pairs_are_not_read_from_anything_else(told: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="pairs want the mapping"):
        Pairs.from_dict(told)


@given(stream, st.lists(st.integers(0, 30), max_size=5))
def test_a_ledger_adds_up_to_the_whole_of_what_it_was_given(
    rows: list[tuple[Row, Row, float, float]], places: list[int]
) -> None:
    edges = [0, *sorted(min(place, len(rows)) for place in places), len(rows)]
    ledger = Ledger()

    for begin, end in pairwise(edges):
        ledger.add(counted(rows[begin:end]))
    for row in rows:
        ledger.add(counted([row]) + Pairs(predictions=2, sampled=1))

    assert ledger.snapshot() == counted(rows) + counted(rows) + Pairs(predictions=2 * len(rows), sampled=len(rows))


def test_a_ledger_loses_nothing_between_threads() -> None:
    ledger, one = Ledger(), counted([(SNAPSHOT, FRESH, 0.9, 0.1), (FRESH, FRESH, 0.2, 0.2)])

    def work(_: int) -> None:
        for _ in range(50):
            ledger.add(one)
            ledger.count(predictions=2, sampled=2)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    got = ledger.snapshot()
    assert (got.predictions, got.sampled, got.total.pairs, got.total.flips) == (800, 800, 800, 400)


def test_a_snapshot_does_not_change_when_more_is_counted() -> None:
    ledger = Ledger()
    before = ledger.snapshot()

    ledger.add(counted([(FRESH, FRESH, 0.9, 0.1)]))
    ledger.count(predictions=1)

    assert (before.total.pairs, before.predictions) == (0, 0)
    assert ledger.snapshot().total.pairs == 1
