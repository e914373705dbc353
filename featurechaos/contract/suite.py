"""What every case stands on: the hooks a subclass gives, and stores, views and rows for one test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

import numpy as np

from featurechaos.codec import Layout, Rows, column
from featurechaos.contract.rows import PROJECT, view_of
from featurechaos.contract.running import CLOCK, in_time
from featurechaos.contract.values import NOW_US, VALUES
from featurechaos.engine import readable
from featurechaos.model import Verdict, View
from featurechaos.readings import rows_of
from featurechaos.stores import Ask, Batch, Place, WriteCounts
from featurechaos.tables import batch_of

Test = TypeVar("Test", bound=Callable[..., None])


def needs(*hooks: str) -> Callable[[Test], Test]:
    """A case that is one only for a class that gives these hooks, or says these things of itself."""

    def marked(test: Test) -> Test:
        test.needs = hooks  # type: ignore[attr-defined]
        return test

    return marked


class Suite:
    """What a subclass gives: `open`, and of the rest what applies to it. Attributes it may set:

    is_local: it answers from this process's memory or disk, so it never waits and `until` is not in question.
    is_writable: rows come by `write`; else by `fill`.
    keeps_history: `as_of_us` is honoured rather than refused.
    begins: it has `begin`, a read that can be advanced and abandoned.
    forks: it is used on both sides of a fork.
    buries: a deleted row leaves a tombstone.
    values: for each dtype some values it can hold, null among them.
    """

    is_local: ClassVar[bool] = False
    is_writable: ClassVar[bool] = True
    keeps_history: ClassVar[bool] = False
    begins: ClassVar[bool] = False
    forks: ClassVar[bool] = True
    buries: ClassVar[bool] = True
    values: ClassVar[Mapping[str, Any]] = VALUES

    def open(self, place: Place) -> Any:
        """A store that serves the place's views; opened more than once a test, on the same data."""
        raise NotImplementedError

    def fill(self, store: Any, view: View, table: Mapping[str, Any]) -> None:
        """Make the store hold a table (join keys, features, event_timestamp) and nothing else of that view."""
        self._write(store, batch_of(view, Layout.of(view), table, wall_us=2 * NOW_US))

    def bury(self, store: Any, batch: Batch) -> None:
        """Make the store hold tombstones."""
        self._write(store, batch)

    def take_in(self, store: Any, view: View) -> None:
        """Bring what another store was filled with into this one; for stores that hold images."""

    def prepare(self, store: Any, view: View, as_of_us: int) -> None:
        """Make a read as of a date possible; for stores that fetch their history first."""

    def put(self, store: Any, ask: Ask, blobs: Sequence[bytes]) -> None:
        """Store bytes as they are, past every check."""
        raise NotImplementedError

    def stalled(self, store: Any) -> AbstractContextManager[Any]:
        """While it lasts, the server takes connections and answers nothing."""
        raise NotImplementedError

    def down(self, store: Any) -> AbstractContextManager[Any]:
        """While it lasts, there is no server; after it, one that may have lost its data."""
        raise NotImplementedError

    # How the suite itself works.

    _numbers = count()

    def __init_subclass__(cls, *, is_of_a_store: bool = True, **more: Any) -> None:
        super().__init_subclass__(**more)
        if not is_of_a_store:
            return  # What were left out here would be left out of every store's tests.
        for name in dir(cls):
            if name.startswith("test_") and vars(cls).get(name, name) is not None:
                case = next(found for base in cls.__mro__ if (found := vars(base).get(name)) is not None)
                setattr(cls, name, case if all(map(cls._has, getattr(case, "needs", ()))) else None)

    @classmethod
    def _has(cls, need: str) -> bool:
        if need.startswith("not "):
            return not cls._has(need[4:])
        given = getattr(cls, need)
        return given if isinstance(given, bool) else given is not getattr(Suite, need)

    def setup_method(self) -> None:
        self._open: list[Any] = []

    def teardown_method(self) -> None:
        for store in self._open:
            store.close()

    def _view(self, features: Mapping[str, str] | None = None, keys: Mapping[str, str] | None = None) -> View:
        """A view nobody has written to."""
        return view_of(features or {"f": "int64"}, keys, name=f"v{next(self._numbers)}_{uuid4().hex[:12]}")

    def _opened(self, *views: View) -> Any:
        store = self._made(Place("it", PROJECT, views, CLOCK))
        self._open.append(store)
        return store

    def _made(self, place: Place) -> Any:
        """The store under test, in its blocking form."""
        return self.open(place)

    def _hook(self, store: Any) -> Any:
        """The store as `open` made it, for the hooks."""
        return store

    def _write(self, store: Any, batch: Batch) -> WriteCounts:
        counts: WriteCounts = store.write(batch, in_time())
        return counts

    def _fill(self, store: Any, view: View, *columns: Any, time_us: Any = NOW_US, **features: Any) -> None:
        """Rows of some keys; feature `f` is the row's number unless it is given."""
        n = len(columns[0])
        table: dict[str, Any] = dict(zip([key.name for key in view.join_keys], columns, strict=True))
        table |= features or {"f": list(range(n))}
        table["event_timestamp"] = np.full(n, time_us, np.int64).view("M8[us]")
        self.fill(self._hook(store), view, table)

    def _rows(self, store: Any, ask: Ask, *, as_of_us: int | None = None) -> Rows:
        """What a client makes of an answer; layouts it has not met are asked for."""
        more = {} if as_of_us is None else {"as_of_us": as_of_us}
        answers = store.read([ask], in_time(), **more)
        assert len(answers) == 1
        return self._decoded(store, ask, answers[0])

    @staticmethod
    def _decoded(store: Any, ask: Ask, answer: Any) -> Rows:
        rows, unknown = rows_of(ask, answer, {})
        if unknown:
            rows, _ = rows_of(ask, answer, readable(store.layouts(PROJECT, sorted(unknown), in_time())))
        assert len(rows) == len(ask.keys), "one row a key"
        return rows

    def _numbers_of(self, store: Any, ask: Ask) -> list[int | None]:
        """Feature `f` of each row that is there."""
        rows = self._rows(store, ask)
        return [
            int(value) if verdict == Verdict.FRESH else None
            for value, verdict in zip(column(rows, "f"), rows.verdicts, strict=True)
        ]
