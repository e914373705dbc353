"""What was stored comes back, in the order asked."""

from __future__ import annotations

import numpy as np
import pytest

from featurechaos.codec import Keys, Layout, column
from featurechaos.contract.rows import ask_of, expected, held, spoil
from featurechaos.contract.running import in_time
from featurechaos.contract.suite import Suite
from featurechaos.contract.values import KEYS, NOW_US, kind_of
from featurechaos.model import DType, Verdict
from featurechaos.stores import Ask


class ReadingCases(Suite, is_of_a_store=False):
    """What was stored comes back, in the order asked."""

    @pytest.mark.parametrize("kind", ["scalars", "vectors", "lists"])
    def test_values_of_each_dtype_come_back(self, kind: str) -> None:
        dtypes = [dtype for dtype in self.values if kind_of(dtype) == kind]
        features = {f"f{at}": dtype for at, dtype in enumerate(dtypes)}
        held_of = {name: self.values[dtype] for name, dtype in features.items()}
        n = max(map(len, held_of.values()))
        values = {name: [*each, *[None] * (n - len(each))] for name, each in held_of.items()}
        view, keys = self._view(features), list(range(n))
        store = self._opened(view)
        self._fill(store, view, keys, **values)

        rows = self._rows(store, ask_of(view, keys))

        assert rows.verdicts.tolist() == [Verdict.FRESH] * n
        assert rows.event_time.tolist() == [NOW_US] * n
        for name, dtype in features.items():
            got, absent = held(rows, name)
            wanted, gone = expected(values[name], DType.parse(dtype))
            assert absent.tolist() == gone.tolist(), f"nulls of {dtype}"
            assert got == wanted, f"values of {dtype}"

    @pytest.mark.parametrize("dtype", KEYS)
    def test_keys_of_each_dtype_are_told_apart(self, dtype: str) -> None:
        keys, view = KEYS[dtype], self._view(keys={"k": dtype})
        store = self._opened(view)
        self._fill(store, view, keys)

        assert self._numbers_of(store, ask_of(view, keys)) == list(range(len(keys)))

    def test_keys_of_several_parts_are_told_apart(self) -> None:
        view = self._view(keys={"a": "string", "b": "int64"})
        store = self._opened(view)
        first, second = ["x", "x", "x|1", "x", ""], [1, 11, 1, -1, 1]
        self._fill(store, view, first, second)

        assert self._numbers_of(store, ask_of(view, first, second)) == [0, 1, 2, 3, 4]

    def test_a_key_that_is_not_there_is_missing_in_its_place(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, [1, 2, 3])

        assert self._numbers_of(store, ask_of(view, [9, 2, 8, 1])) == [None, 1, None, 0]
        rows = self._rows(store, ask_of(view, [9, 2, 8]))
        assert rows.verdicts.tolist() == [Verdict.MISSING, Verdict.FRESH, Verdict.MISSING]
        assert self._rows(store, ask_of(view, [7, 8])).verdicts.tolist() == [Verdict.MISSING] * 2

    def test_a_view_nobody_wrote_has_no_rows(self) -> None:
        view = self._view()

        rows = self._rows(self._opened(view), ask_of(view, [1, 2]))

        assert rows.verdicts.tolist() == [Verdict.MISSING] * 2

    def test_asking_for_nothing_gives_nothing(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, [1])
        nothing = Ask(view, Layout.of(view), Keys([], np.empty(0, np.uint64)))

        assert list(store.read([], in_time())) == []
        first, second, third = store.read([nothing, ask_of(view, [1]), nothing], in_time())

        assert len(self._decoded(store, nothing, first)) == len(self._decoded(store, nothing, third)) == 0
        assert self._decoded(store, ask_of(view, [1]), second).verdicts.tolist() == [Verdict.FRESH]

    def test_a_key_asked_for_twice_is_answered_twice(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, [1, 2, 3])
        asks = [ask_of(view, [1, 2]), ask_of(view, [3, 2, 1]), ask_of(view, [2])]

        answers = store.read(asks, in_time())

        got = [column(self._decoded(store, *pair), "f").tolist() for pair in zip(asks, answers, strict=True)]
        assert got == [[0, 1], [2, 1, 0], [1]]

    def test_views_of_one_read_are_told_apart(self) -> None:
        views = [self._view() for _ in range(3)]
        store = self._opened(*views)
        for number, view in enumerate(views):
            self._fill(store, view, [1, 2], f=[10 * number, 10 * number + 1])
        asks = [ask_of(views[2], [2, 1]), ask_of(views[0], [1, 2]), ask_of(views[1], [2])]

        answers = store.read(asks, in_time())

        assert len(answers) == len(asks)
        got = [column(self._decoded(store, *pair), "f").tolist() for pair in zip(asks, answers, strict=True)]
        assert got == [[21, 20], [0, 1], [11]]

    def test_many_rows_come_in_the_order_asked(self) -> None:
        view = self._view()
        store = self._opened(view)
        keys = np.random.default_rng(7).permutation(2500).tolist()
        self._fill(store, view, keys, f=keys)

        asked = keys[::-1]
        assert self._numbers_of(store, ask_of(view, asked)) == asked

    def test_an_answer_is_the_callers_to_write(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, [1, 2])
        ask = ask_of(view, [1, 2])

        spoil(store.read([ask], in_time())[0])

        assert self._numbers_of(store, ask) == [0, 1]
