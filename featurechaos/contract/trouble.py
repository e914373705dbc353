"""Deadlines, servers that are silent or gone, threads, forks and reads left half-way."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from featurechaos.codec import column
from featurechaos.contract.rows import PROJECT, ask_of, batch
from featurechaos.contract.running import (
    CLOCK,
    SLACK_S,
    SOON_S,
    ends,
    exit_code,
    finished,
    forked,
    in_time,
    outcome,
    together,
)
from featurechaos.contract.suite import Suite, needs
from featurechaos.contract.values import NOW_US
from featurechaos.errors import StoreError, StoreTimeout


class TroubleCases(Suite, is_of_a_store=False):
    """Deadlines, servers that are silent or gone, threads, forks and reads left half-way."""

    def test_no_time_left_ends_at_once(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, [1])
        begun = CLOCK.monotonic()

        ended = outcome(store, ask_of(view, [1]), begun - 0.001)

        assert CLOCK.monotonic() - begun < SLACK_S
        assert ended is not None or self.is_local, "an answer after `until` is no answer"
        assert ended is None or isinstance(ended, StoreTimeout)
        assert self._numbers_of(store, ask_of(view, [1])) == [0]

    @needs("stalled")
    def test_a_stalled_server_is_left_at_the_deadline(self) -> None:
        view = self._view()
        store = self._opened(view)
        keys = list(range(20))
        self._fill(store, view, keys)
        ask = ask_of(view, [1])

        with self.stalled(self._hook(store)):
            calls: list[Callable[[float], Any]] = [
                lambda until: store.read([ask], until),
                lambda until: store.read([ask], until),
                lambda until: store.layouts(PROJECT, [ask.layout.hash], until),
            ]
            if self.is_writable:
                rows = batch(view, [1], NOW_US - 1)
                calls.append(lambda until: store.write(rows, until))
            for call in calls:
                until = CLOCK.monotonic() + SOON_S
                with pytest.raises(StoreTimeout):
                    call(until)
                assert -0.01 < CLOCK.monotonic() - until < SLACK_S

        for key in keys:
            assert self._numbers_of(store, ask_of(view, [key])) == [key], "no reply of another read"

    @needs("down")
    def test_without_a_server_there_are_only_store_errors(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, [1])
        ask = ask_of(view, [1])

        with self.down(self._hook(store)):
            other = self._opened(view)
            for which in (store, other, store):
                until = CLOCK.monotonic() + SOON_S
                error = outcome(which, ask, until)
                assert isinstance(error, StoreError) or (error is None and self.is_local), f"it ended in {error!r}"
                assert CLOCK.monotonic() - until < SLACK_S
            if self.is_writable:
                with pytest.raises(StoreError):
                    store.write(batch(view, [1], NOW_US), CLOCK.monotonic() + SOON_S)

        self._fill(store, view, [1, 2], time_us=NOW_US + 1)
        assert self._numbers_of(store, ask_of(view, [2, 1])) == [1, 0]

    def test_close_may_be_called_twice_and_leaves_no_thread(self) -> None:
        view = self._view()
        before = set(threading.enumerate())
        store = self._opened(view)
        self._fill(store, view, [1])
        self._rows(store, ask_of(view, [1]))

        store.close()
        store.close()

        left = [thread for thread in threading.enumerate() if thread not in before and not ends(thread)]
        assert not left
        error = outcome(store, ask_of(view, [1]), in_time())
        assert error is None or isinstance(error, StoreError)

    def test_eight_threads_get_their_own_rows(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, list(range(800)))
        wrong: list[Any] = []

        def reads(number: int) -> None:
            for turn in range(40):
                keys = [number * 100 + turn, (number * 100 + 7 * turn) % 800 + 800, number * 100 + 99 - turn]
                got = self._numbers_of(store, ask_of(view, keys))
                if got != [keys[0], None, keys[2]]:
                    wrong.append((keys, got))
                if wrong:
                    return

        together(reads, 8, wrong)

        assert not wrong

    @needs("forks")
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
    def test_a_fork_leaves_both_sides_whole(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, list(range(200)))
        assert self._numbers_of(store, ask_of(view, [0])) == [0]

        def reads(begin: int) -> bool:
            keys = [begin + turn % 25 for turn in range(150)]
            return all(self._numbers_of(store, ask_of(view, [key, key + 100])) == [key, key + 100] for key in keys)

        children = [forked(lambda begin=begin: reads(begin)) for begin in (25, 50, 75)]  # type: ignore[misc]
        mine = reads(0)
        codes = [exit_code(child) for child in children]

        assert mine, "the parent got rows that were not its own"
        assert codes == [0, 0, 0], "a child got rows that were not its own, or an error"

    @needs("begins")
    def test_an_abandoned_read_costs_the_next_nothing(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, list(range(40)))
        begin = store.begin
        for key in range(0, 40, 2):
            left = begin([ask_of(view, [key])], in_time())
            left.abandon()
            left.abandon()
            ask = ask_of(view, [key + 1])
            answers = finished(begin([ask], in_time()))
            assert column(self._decoded(store, ask, answers[0]), "f").tolist() == [key + 1]
            assert self._numbers_of(store, ask_of(view, [key])) == [key]

    def test_it_has_the_shape_of_a_store(self) -> None:
        store = self._hook(self._opened(self._view()))

        for name in ("read", "layouts", "write", "close"):
            assert callable(getattr(store, name))
        assert isinstance(store.bounded, bool)
        assert isinstance(store.writable, bool)
        assert store.writable == self.is_writable
        assert hasattr(store, "begin") == self.begins
