"""The last-known cache: its bounds in rows and in time, and use from many threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos import marks
from featurechaos import memory as memory_module
from featurechaos.codec import Packed
from featurechaos.codec.hashing import spread
from featurechaos.memory import Keep, LastKnown
from featurechaos.testing import ManualClock


def memory_of(clock: ManualClock, **bounds: float) -> LastKnown:
    return LastKnown(clock, {"v": Keep(**bounds), "w": Keep()})  # type: ignore[arg-type]


def ids(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def test_what_was_kept_is_found_in_the_order_asked() -> None:
    memory = memory_of(ManualClock())
    memory.keep(("v",), ids(1, 2, 3), ([b"a", b"b", b"c"],))

    assert memory.find("v", ids(3, 9, 1)) == [b"c", None, b"a"]
    assert memory.find("w", ids(1)) == [None], "views do not mix"
    assert memory.find("v", []) == []


def test_a_row_is_kept_for_its_time_and_no_longer() -> None:
    clock = ManualClock()
    memory = memory_of(clock, keep_s=80)
    memory.keep(("v",), ids(1), ([b"a"],))

    clock.advance(79.9)
    assert memory.find("v", ids(1)) == [b"a"]
    clock.advance(0.2)

    assert memory.find("v", ids(1)) == [None]


def test_a_row_that_is_read_all_the_time_never_expires() -> None:
    clock = ManualClock()
    memory = memory_of(clock, keep_s=80)
    for second in range(400):
        memory.keep(("v",), ids(1), ([b"%d" % second],))
        clock.advance(1)

        found = memory.find("v", ids(1))[0]
        assert found is not None
        assert second - int(found) <= 10, "at most keep_s / 8 older than the last one seen"


def test_a_newer_generation_wins() -> None:
    clock = ManualClock()
    memory = memory_of(clock, keep_s=80)
    memory.keep(("v",), ids(1, 2), ([b"old", b"old"],))
    clock.advance(11)
    memory.keep(("v",), ids(1), ([b"new"],))

    assert memory.find("v", ids(1, 2)) == [b"new", b"old"]


def test_what_was_read_here_hides_what_is_given_back_even_by_a_clock_that_is_ahead() -> None:
    clock = ManualClock()
    memory = memory_of(clock, keep_s=80)
    memory.keep(("v",), ids(1), ([b"read"],))
    clock.advance(2)
    memory.give("v", clock.monotonic(), dict.fromkeys(ids(1, 2), b"given"))
    memory.give("v", clock.monotonic() - 10, dict.fromkeys(ids(1, 2, 3), b"older"))

    assert memory.find("v", ids(1, 2, 3)) == [b"read", b"given", b"older"]

    memory.keep(("v",), ids(2), ([b"read"],))

    assert memory.find("v", ids(1, 2, 3)) == [b"read", b"read", b"older"]


def test_what_is_forgotten_is_gone_from_every_generation() -> None:
    clock = ManualClock()
    memory = memory_of(clock, keep_s=80)
    for _ in range(4):
        memory.keep(("v",), ids(1, 2), ([b"a", b"b"],))
        clock.advance(11)

    memory.forget("v", ids(1, 7))

    assert memory.find("v", ids(1, 2)) == [None, b"b"]


@given(max_rows=st.integers(1, 60), batches=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 90)), max_size=30))
def test_it_never_holds_more_than_its_rows(max_rows: int, batches: list[tuple[int, int]]) -> None:
    clock = ManualClock()
    memory = memory_of(clock, keep_s=80, max_rows=max_rows)
    for begin, count in batches:
        memory.keep(("v",), ids(*range(begin, begin + count)), ([b"x"] * count,))
        clock.advance(1)

        assert memory.size("v") <= max_rows


@pytest.mark.parametrize("max_rows", [8, 100, 1000])
def test_it_holds_most_of_what_it_may(max_rows: int) -> None:
    memory = memory_of(ManualClock(), max_rows=max_rows)
    for begin in range(0, 3 * max_rows, 4):
        memory.keep(("v",), ids(*range(begin, begin + 4)), ([b"x"] * 4,))

    assert memory.size("v") >= max_rows * 3 // 4
    assert memory.find("v", ids(3 * max_rows // 4 * 4 - 1)) == [b"x"], "the latest are there"


def test_rows_that_fit_in_half_of_it_are_written_once(seed: int) -> None:
    rng, memory = Random(seed), LastKnown(ManualClock(), {"v": Keep(max_rows=800), "w": Keep(max_rows=1600)})
    for turn in range(400):
        some = ids(*rng.sample(range(300), 10))
        memory.keep(("v", "w"), some, ([b"%d" % turn] * 10, [b"%d" % turn] * 10))

    assert (memory.size("v"), memory.size("w")) == (300, 300), "of 100 rows a generation, of 200"
    assert None not in memory.find("v", ids(*range(300)))
    newest = [memory._generations[view][0] for view in ("v", "w")]
    assert [found for _, found, _, _ in memory._together["v", "w"].into] == newest, "where the quick way writes"


@pytest.mark.parametrize("max_rows", [8, 16, 80, 800])
@pytest.mark.parametrize("every", [1, 3])
def test_a_row_that_is_read_among_others_that_come_once_is_always_there(max_rows: int, every: int) -> None:
    memory = memory_of(ManualClock(), max_rows=max_rows)
    first = ids(0, *range(-max_rows * 4 // 7, 0))
    memory.keep(("v",), first, ([b"x"] * len(first),))
    for turn in range(1, 4 * max_rows):
        memory.keep(("v",), ids(turn), ([b"x"],))
        if turn % every == 0:
            memory.keep(("v",), ids(0), ([b"x"],))

        assert memory.find("v", ids(0, turn)) == [b"x", b"x"]


def test_one_batch_larger_than_all_it_may_hold_keeps_a_part() -> None:
    memory = memory_of(ManualClock(), max_rows=80)

    memory.keep(("v",), ids(*range(1000)), ([b"%d" % number for number in range(1000)],))

    assert 0 < memory.size("v") <= 80
    found = memory.find("v", ids(*range(1000)))
    assert all(blob in {None, key} for key, blob in zip(ids(*range(1000)), found, strict=True))


def test_threads_may_keep_find_and_forget_at_once() -> None:
    clock = ManualClock()
    memory = memory_of(clock, keep_s=8, max_rows=400)
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for turn in range(300):
                mine = ids(*range(turn % 90, turn % 90 + 10))
                memory.keep(("v",), mine, (mine,))
                found = memory.find("v", mine)
                wrong.extend(blob for key, blob in zip(mine, found, strict=True) if blob not in {None, key})
                if turn % 7 == 0:
                    memory.forget("v", mine[:3])
                if number == 0:
                    clock.advance(0.1)
                if memory.size("v") > 400:
                    wrong.append(memory.size("v"))
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


def test_views_read_together_are_each_remembered_whatever_was_read_alone() -> None:
    memory = LastKnown(ManualClock(), {"v": Keep(), "w": Keep()})
    memory.keep(("v",), ids(1), ([b"v1"],))

    memory.keep(("v", "w"), ids(1), ([b"v2"], [b"w2"]))

    assert (memory.find("v", ids(1)), memory.find("w", ids(1))) == ([b"v2"], [b"w2"])


def test_a_row_forgotten_in_one_of_the_views_read_together_is_written_again() -> None:
    memory = LastKnown(ManualClock(), {"v": Keep(), "w": Keep()})
    memory.keep(("v", "w"), ids(1), ([b"v"], [b"w"]))
    memory.forget("w", ids(1))

    memory.keep(("v", "w"), ids(1), ([b"v"], [b"w"]))

    assert memory.find("w", ids(1)) == [b"w"]


def test_a_row_written_after_its_tombstone_is_remembered_at_once() -> None:
    memory = LastKnown(ManualClock(), {"v": Keep()})
    memory.bury("v", ids(1), [10])
    memory.keep(("v",), ids(1), ([row(5)],))
    assert memory.find("v", ids(1)) == [None]

    memory.keep(("v",), ids(1), ([row(11)],))

    assert memory.find("v", ids(1)) == [row(11)]


def test_a_row_seen_again_is_not_written_again_before_it_is_due() -> None:
    clock = ManualClock()
    memory = LastKnown(clock, {"v": Keep(fresh_s=10), "w": Keep()})
    memory.keep(("v", "w"), ids(1), ([b"old"], [b"old"]))
    clock.advance(9.9)
    memory.keep(("v", "w"), ids(1), ([b"new"], [b"new"]))
    assert memory.find("w", ids(1)) == [b"old"]

    clock.advance(0.1)
    memory.keep(("v", "w"), ids(1), ([b"new"], [b"new"]))

    assert memory.find("w", ids(1)) == [b"new"], "the shortest of their times holds"


@pytest.mark.parametrize("is_packed", [False, True])
def test_of_rows_some_of_which_are_new_only_those_are_written(*, is_packed: bool) -> None:
    def rows(*numbers: int) -> Sequence[bytes]:
        blobs = [b"%016d" % number for number in numbers]
        return Packed(np.frombuffer(b"".join(blobs), np.uint64).reshape(-1, 2)) if is_packed else blobs

    clock = ManualClock()
    memory = LastKnown(clock, {"v": Keep(), "w": Keep()})
    memory.keep(("v", "w"), ids(0, 2), (rows(0, 2), rows(10, 12)))
    memory.keep(("v", "w"), ids(0, 1, 2, 3), (rows(90, 1, 92, 3), rows(90, 11, 92, 13)))

    assert memory.find("v", ids(0, 1, 2, 3)) == rows(0, 1, 2, 3)
    assert memory.find("w", ids(0, 1, 2, 3)) == rows(10, 11, 12, 13)
    assert memory.size("v") == 4


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=20)),
        st.tuples(st.sampled_from(["forget", "bury"]), st.lists(st.integers(0, 30), unique=True, max_size=3)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 9.0])),
    ),
    max_size=30,
)


@given(STEPS, st.sampled_from([4, 1 << 12]))
def test_known_by_their_marks_or_by_their_ids_the_same_rows_are_remembered(
    steps: list[tuple[str, object]], places: int
) -> None:
    """In tables of four places marks push each other out all the time."""
    clock = ManualClock()
    keeps = {"v": Keep(keep_s=80, fresh_s=10, max_rows=80), "w": Keep(keep_s=160, fresh_s=20)}
    by_id, by_mark = LastKnown(clock, keeps), LastKnown(clock, keeps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_module, "_FEW", 2)
        patch.setattr(marks, "_LEAST", places)
        patch.setattr(marks, "_MOST", places)
        for number, (step, numbers) in enumerate(steps):
            if step == "wait":
                clock.advance(numbers)  # type: ignore[arg-type]
                continue
            some: list[int] = numbers  # type: ignore[assignment]
            own = spread(np.array(some, np.int64).view(np.uint64))
            for memory, hashes in ((by_id, None), (by_mark, own)):
                match step:
                    case "keep":
                        rows = [row(100 + number)] * len(some)
                        memory.keep(("v", "w"), ids(*some), (rows, rows), own=hashes)
                    case "forget":
                        memory.forget("w", ids(*some), hashes)
                    case "bury":
                        memory.bury("v", ids(*some), [100 + number] * len(some), hashes)
            for view in keeps:
                assert by_mark.find(view, ids(*range(31))) == by_id.find(view, ids(*range(31))), (step, numbers)


def test_rows_that_were_kept_are_known_by_their_marks() -> None:
    """Else the test above compares ids with ids."""
    memory = LastKnown(ManualClock(), {"v": Keep()})
    own = spread(np.arange(100, dtype=np.uint64))
    for _ in range(2):
        memory.keep(("v",), ids(*range(100)), ([b"a"] * 100,), own=own)

    assert memory._together["v",].marks.strange(own) == []

    memory.forget("v", ids(3), own[3:4])
    assert memory._together["v",].marks.strange(own) == [3]
    memory.forget("v", ids(4))
    assert len(memory._together["v",].marks.strange(own)) == 100


def test_rows_known_by_their_marks_are_written_anew_when_they_are_due() -> None:
    clock = ManualClock()
    memory, own = LastKnown(clock, {"v": Keep(fresh_s=10)}), spread(np.arange(90, dtype=np.uint64))
    for _ in range(2):
        memory.keep(("v",), ids(*range(90)), ([b"old"] * 90,), own=own)
    clock.advance(10)

    memory.keep(("v",), ids(*range(45)), ([b"new"] * 45,), own=own[:45])
    memory.keep(("v",), ids(*range(45, 90)), ([b"new"] * 45,), own=own[45:])

    assert memory.find("v", ids(*range(90))) == [b"new"] * 90


def test_a_buried_row_gets_no_mark_beside_others_that_do() -> None:
    memory, own = LastKnown(ManualClock(), {"v": Keep()}), spread(np.arange(50, dtype=np.uint64))
    memory.keep(("v",), ids(*range(49)), ([row(5)] * 49,), own=own[:49])
    memory.bury("v", ids(49), [10], own[49:])
    memory.keep(("v",), ids(*range(50)), ([row(5)] * 50,), own=own)
    assert memory.find("v", ids(48, 49)) == [row(5), None]

    memory.keep(("v",), ids(*range(50)), ([row(11)] * 50,), own=own)

    assert memory.find("v", ids(48, 49)) == [row(5), row(11)]


# Under other bounds.


def test_rows_go_on_under_other_bounds_the_newest_first() -> None:
    clock = ManualClock()
    memory = memory_of(clock, keep_s=80, max_rows=80)
    memory.keep(("v",), ids(*range(8)), ([b"old"] * 8,))
    clock.advance(11)
    memory.keep(("v",), ids(*range(8, 16)), ([b"new"] * 8,))

    heir = memory.under({"v": Keep(keep_s=40, max_rows=11)}, aside_s=0.0)

    assert heir.find("v", ids(*range(8, 16))) == [b"new"] * 8
    assert heir.find("v", ids(*range(8))) == [b"old"] * 3 + [None] * 5
    assert heir.size("v") == 11
    clock.advance(30)
    assert heir.find("v", ids(0, 8)) == [None, b"new"]
    assert memory.find("v", ids(0, 8)) == [b"old", b"new"], "reads under way have theirs"


def test_a_view_that_is_left_out_has_no_rows_and_takes_none() -> None:
    memory = memory_of(ManualClock())
    memory.keep(("v",), ids(1), ([b"a"],))
    memory.keep(("w",), ids(1), ([b"b"],))

    heir = memory.under({"w": Keep()}, aside_s=10.0)

    heir.keep(("v",), ids(2), ([b"c"],))
    heir.bury("v", ids(3), [7])
    heir.doubt("v", ids(2))
    assert (heir.size("v"), heir.take("v"), heir.find("v", ids(1, 2))) == (0, [], [None, None])
    assert heir.find("w", ids(1)) == [b"b"]
    again = heir.under({"v": Keep(), "w": Keep()}, aside_s=0.0)
    again.keep(("v",), ids(2), ([b"c"],))
    assert again.find("v", ids(1, 2)) == [None, b"c"]


def test_what_either_buries_is_buried_for_both() -> None:
    old = memory_of(ManualClock())
    old.keep(("v",), ids(1, 2), ([bytes(24), bytes(24)],))
    heir = old.under({"v": Keep(), "w": Keep()}, aside_s=0.0)

    heir.bury("v", ids(1), [7])
    old.bury("v", ids(2), [7])
    old.keep(("v",), ids(1, 2, 3), ([bytes(24)] * 3,))

    assert heir.find("v", ids(1, 2, 3)) == [None, None, bytes(24)]
    assert old.find("v", ids(1, 2, 3)) == [None, None, bytes(24)]


def row(event_time_us: int) -> bytes:
    return bytes(16) + event_time_us.to_bytes(8, "little") + bytes(16)


def _soon(memory: LastKnown, clock: ManualClock, key: bytes, blob: bytes, views: tuple[str, ...] = ("v",)) -> None:
    memory.keep_soon(views, [key], [[blob]] * len(views), clock.monotonic())


def test_rows_that_wait_are_there_for_whoever_looks() -> None:
    clock = ManualClock()
    memory = LastKnown(clock, {"v": Keep(), "w": Keep()})

    _soon(memory, clock, b"1", row(1), ("v", "w"))
    _soon(memory, clock, b"2", row(2), ("v", "w"))

    assert memory.find("w", [b"1", b"2", b"3"]) == [row(1), row(2), None]
    assert memory.size("v") == 2
    assert [sorted(taken.rows) for taken in memory.take("v")] == [[b"1", b"2"]]


def test_a_row_that_waits_is_forgotten_and_buried_as_any_other() -> None:
    clock = ManualClock()
    memory = LastKnown(clock, {"v": Keep()})

    _soon(memory, clock, b"1", row(1))
    memory.forget("v", [b"1"])
    _soon(memory, clock, b"2", row(2))
    memory.bury("v", [b"2"], [10**9])

    assert memory.find("v", [b"1", b"2"]) == [None, None]


def test_a_row_that_waited_is_as_old_as_its_read() -> None:
    clock = ManualClock()
    memory = LastKnown(clock, {"v": Keep(keep_s=80)})

    _soon(memory, clock, b"1", row(1))
    clock.advance(79)
    _soon(memory, clock, b"2", row(2))
    clock.advance(2)

    assert memory.find("v", [b"1", b"2"]) == [None, row(2)]


def test_what_waits_is_bounded_and_written_once_it_is_many() -> None:
    clock = ManualClock()
    memory = LastKnown(clock, {"v": Keep()})

    for key in range(1000):
        _soon(memory, clock, b"%d" % key, row(key))
        assert len(memory._waiting) < 64

    assert memory.find("v", [b"%d" % key for key in range(1000)]) == [row(key) for key in range(1000)]
