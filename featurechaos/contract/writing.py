"""Rows and layouts are kept as they were given; the newest event time wins."""

from __future__ import annotations

from typing import Any

import pytest

from featurechaos.codec import Layout, column, nulls
from featurechaos.contract.rows import PROJECT, ask_of, batch, blobs, damaged, tombstones, view_of
from featurechaos.contract.running import in_time
from featurechaos.contract.suite import Suite, needs
from featurechaos.contract.values import NOW_US
from featurechaos.errors import StoreError, StoreUnavailable
from featurechaos.model import Verdict


class WritingCases(Suite, is_of_a_store=False):
    """Rows and layouts are kept as they were given; the newest event time wins."""

    @needs("put")
    @pytest.mark.parametrize("damage", ["foreign", "empty", "short", "long", "truncated", "flipped", "magic"])
    def test_damaged_bytes_cost_their_row_only(self, damage: str) -> None:
        view = self._view({"f": "int64", "s": "string"})
        store, ask = self._opened(view), ask_of(view, [1, 2, 3])
        good = blobs(view, [1, 2, 3])
        bad = damaged(good[1], damage)
        self.put(self._hook(store), ask, [good[0], bad, good[2]])

        answer = store.read([ask], in_time())[0]

        assert list(answer) == [good[0], bad, good[2]], "unchanged"
        rows = self._decoded(store, ask, answer)
        assert rows.verdicts.tolist() == [Verdict.FRESH, Verdict.CORRUPT, Verdict.FRESH]
        assert column(rows, "f").tolist()[::2] == [0, 2]

    @needs("put")
    def test_a_row_of_another_entity_is_handed_on_and_known_for_what_it_is(self) -> None:
        view = self._view()
        store, ask = self._opened(view), ask_of(view, [1, 2, 3])
        good = blobs(view, [1, 2, 3])
        self.put(self._hook(store), ask, [good[0], good[0], good[2]])

        answer = store.read([ask], in_time())[0]

        assert list(answer) == [good[0], good[0], good[2]]
        verdicts = self._decoded(store, ask, answer).verdicts.tolist()
        assert verdicts == [Verdict.FRESH, Verdict.CORRUPT, Verdict.FRESH]

    # Schemas change.

    @pytest.mark.parametrize("change", ["added", "removed"])
    def test_rows_of_an_older_and_a_newer_schema_are_read_by_name(self, change: str) -> None:
        old = self._view({"f": "int64", "gone": "float32"})
        new = view_of({"f": "int64", "added": "string"}, name=old.name)
        written, read = (old, new) if change == "added" else (new, old)
        values: dict[str, Any] = {"gone": [1.5, 2.5]} if written is old else {"added": ["x", "y"]}
        self._fill(self._opened(written), written, [1, 2], f=[0, 1], **values)
        store = self._opened(read)
        self.take_in(self._hook(store), read)

        rows = self._rows(store, ask_of(read, [2, 1]))

        assert rows.verdicts.tolist() == [Verdict.FRESH] * 2
        assert column(rows, "f").tolist() == [1, 0]
        assert nulls(rows, "added" if change == "added" else "gone").all()

    @needs("is_writable")
    def test_layouts_of_written_rows_are_kept_and_others_left_out(self) -> None:
        old = self._view({"f": "int64"})
        new = view_of({"f": "int64", "g": "bool"}, name=old.name)
        store = self._opened(old, new)
        layouts = [Layout.of(old), Layout.of(new)]
        stranger = layouts[0].hash ^ 1
        self._fill(store, old, [1])
        self._fill(store, new, [2], f=[0], g=[True])

        found = store.layouts(PROJECT, [layouts[1].hash, stranger, layouts[0].hash], in_time())

        assert found == {layout.hash: layout.describe() for layout in layouts}
        assert store.layouts(PROJECT, [stranger], in_time()) == {}
        assert store.layouts(PROJECT, [], in_time()) == {}

    # Writing.

    @needs("buries")
    def test_a_deleted_row_is_a_tombstone(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, [1, 2, 3])

        self.bury(self._hook(store), tombstones(view, [2], NOW_US + 1))

        rows = self._rows(store, ask_of(view, [1, 2, 3]))
        assert rows.verdicts.tolist() == [Verdict.FRESH, Verdict.BURIED, Verdict.FRESH]
        assert rows.event_time[1] == NOW_US + 1

    @needs("is_writable")
    def test_a_tombstone_is_replaced_by_newer_rows_only(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._write(store, tombstones(view, [1, 2], NOW_US))

        self._write(store, batch(view, [1, 2], [NOW_US - 1, NOW_US + 1]))

        verdicts = self._rows(store, ask_of(view, [1, 2])).verdicts.tolist()
        assert verdicts == [Verdict.BURIED, Verdict.FRESH]

    @needs("is_writable")
    @pytest.mark.parametrize("at", [0, -1, -NOW_US, NOW_US, 2**53 + 1, 2**62], ids=lambda at: f"at {at}")
    def test_the_newest_event_time_wins_to_the_microsecond(self, at: int) -> None:
        view = self._view()
        store = self._opened(view)
        self._write(store, batch(view, [1, 2, 3, 4], at))

        counts = self._write(store, batch(view, [1, 2, 3, 5], [at - 1, at, at + 1, at - 1], begin=10))

        assert (counts.written, counts.older, counts.failed, counts.error) == (3, 1, 0, None)
        assert self._numbers_of(store, ask_of(view, [1, 2, 3, 4, 5])) == [0, 11, 12, 3, 13]

    @needs("is_writable")
    def test_a_write_of_nothing_writes_nothing(self) -> None:
        view = self._view()
        store = self._opened(view)

        counts = self._write(store, batch(view, [], NOW_US))

        assert (counts.written, counts.older, counts.failed, counts.error) == (0, 0, 0, None)

    @needs("not is_writable")
    def test_a_write_is_refused_in_our_words(self) -> None:
        view = self._view()

        with pytest.raises(StoreError):
            self._write(self._opened(view), batch(view, [1], NOW_US))

    # History.

    @needs("keeps_history")
    def test_as_of_gives_the_rows_known_then(self) -> None:
        view = self._view()
        store = self._opened(view)
        dates = [NOW_US, NOW_US + 1_000_000, NOW_US + 2_000_000]
        for number, date in enumerate(dates):
            self._fill(store, view, [1], f=[number], time_us=date)
        for date in dates:
            self.prepare(self._hook(store), view, date)

        got = [column(self._rows(store, ask_of(view, [1]), as_of_us=date + 5), "f").tolist() for date in dates]

        assert got == [[0], [1], [2]]

    @needs("not keeps_history")
    def test_as_of_is_refused_where_no_history_is_kept(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, [1])

        with pytest.raises(StoreUnavailable):
            store.read([ask_of(view, [1])], in_time(), as_of_us=NOW_US + 5)
