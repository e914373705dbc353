"""Marks never say that a key was met which was not; how many they forget is bounded by how full they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos import marks
from featurechaos.codec.hashing import spread
from featurechaos.marks import Marks


def own(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return spread(np.array(values, np.int64).view(np.uint64))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables in which keys meet all the time."""
    monkeypatch.setattr(marks, "_LEAST", 4)
    monkeypatch.setattr(marks, "_MOST", 16)


def test_what_was_marked_is_strange_no_more_until_it_is_dropped() -> None:
    some = Marks()
    assert some.strange(own(0, 7, 8)) == [0, 1, 2], "of all hashes, the one of 0 is 0"

    some.add(own(0, 8), keys=2)
    assert some.strange(own(0, 7, 8)) == [1]
    assert some.strange(own(8, 0)) == []

    some.drop(own(0))
    assert some.strange(own(0, 7, 8)) == [0, 1]
    assert some.strange(own()) == []


VALUES = st.lists(st.integers(0, 40), unique=True, max_size=12)


@pytest.mark.usefixtures("small")
@given(st.lists(st.tuples(st.sampled_from(["add", "drop"]), VALUES)), VALUES)
def test_nothing_is_known_that_was_not_marked(steps: list[tuple[str, list[int]]], asked: list[int]) -> None:
    some, marked = Marks(), set[int]()
    for step, values in steps:
        if step == "add":
            marked |= {*values}
            some.add(own(*values), keys=len(marked))
        else:
            marked -= {*values}
            some.drop(own(*values))

        strange = some.strange(own(*asked))

        assert {value for at, value in enumerate(asked) if at not in strange} <= marked


@pytest.mark.parametrize("count", [100, 1000, 8000])
def test_most_of_what_was_marked_is_known(count: int) -> None:
    some = Marks()
    for _ in range(2):  # a table that was too small is begun anew
        for begin in range(0, count, 100):
            some.add(own(*range(begin, begin + 100)), keys=count)

    assert len(some.strange(own(*range(count)))) <= count / 8


def test_it_is_bounded_whatever_is_marked() -> None:
    some = Marks()
    some.add(own(*range(100_000)), keys=10**9)

    assert some._table[0].nbytes <= 2 << 20


def test_a_table_that_can_grow_no_more_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "_MOST", 1 << 12)
    some = Marks()
    for value in (1, 2):
        some.add(own(value), keys=10**6)

    assert some.strange(own(1, 2)) == []
