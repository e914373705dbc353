"""Requests, rows and inner plans made in one line, for tests of layers by their history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np

from featurechaos.codec import Layout, column, encode, encode_keys, encode_tombstones
from featurechaos.effects import Next, Plan, sleep
from featurechaos.layers.fetch import Fetch
from featurechaos.model import DType, Feature, JoinKey, Origin, Verdict, View
from featurechaos.readings import Part, Reading, Request, Rules
from featurechaos.stores import Ask
from featurechaos.testing import ManualClock, MemoryStore

ROLES = {
    "primary": Origin.PRIMARY,
    "second": Origin.REPLICA,
    "third": Origin.REPLICA,
    "standby": Origin.SNAPSHOT,
    "other": Origin.SNAPSHOT,
}


def view_of(name: str = "v", **features: str) -> View:
    """A view with the int64 key `k`; feature `f` is float32 unless others are given."""
    made = tuple(Feature(one, DType.parse(kind)) for one, kind in (features or {"f": "float32"}).items())
    return View("t", name, name, (JoinKey("k", DType.parse("int64"), "k"),), made)


VIEW = view_of()


def ask_of(keys: Sequence[int], view: View = VIEW) -> Ask:
    return Ask(view, Layout.of(view), encode_keys(view.join_keys, [list(keys)])[0])


def request_of(
    clock: ManualClock,
    keys: Sequence[int] = (1,),
    *,
    view: View = VIEW,
    source: str = "primary",
    left_s: float = 0.050,
    rules: Rules | None = None,
    id: str = "r",  # noqa: A002 - the field's own name
    **more: Any,
) -> Request:
    """Rows of one view, wanted within `left_s`."""
    return Request(
        [ask_of(keys, view)],
        [rules or Rules(online=("primary", "second"))],
        until=clock.monotonic() + left_s,
        wall_us=int(clock.wall() * 1e6),
        id=id,
        source=source,
        **more,
    )


def rows_of(clock: ManualClock, values: dict[int, float], *, age_s: float = 1.0, view: View = VIEW) -> MemoryStore:
    """A store that holds a value for each of some keys."""
    return add_rows(MemoryStore(), clock, values, age_s=age_s, view=view)


def add_rows(
    store: MemoryStore, clock: ManualClock, values: dict[int, float], *, age_s: float = 1.0, view: View = VIEW
) -> MemoryStore:
    ask = ask_of(list(values), view)
    at = np.full(len(values), int((clock.wall() - age_s) * 1e6), np.int64)
    columns = {feature.name: list(values.values()) for feature in view.features}
    for key, blob in zip(ask.keys.ids, encode(ask.layout, columns, at, ask.keys.own), strict=True):
        store.rows.setdefault(ask.view.head + key, []).append(blob)
    return store


def bury(store: MemoryStore, clock: ManualClock, keys: Sequence[int], *, age_s: float = 0.0) -> MemoryStore:
    ask = ask_of(keys)
    at = np.full(len(keys), int((clock.wall() - age_s) * 1e6), np.int64)
    store.put(ask, encode_tombstones(ask.layout, at, ask.keys.own))
    return store


def damage(store: MemoryStore, keys: Sequence[int]) -> MemoryStore:
    ask = ask_of(keys)
    store.put(ask, [b"\x00" * 64 for _ in keys])
    return store


def fetch(clock: ManualClock, known: dict[int, Layout] | None = None) -> Fetch:
    layout = Layout.of(VIEW)
    return Fetch(clock, ROLES, {layout.hash: layout} if known is None else known)


def values_of(part: Part, feature: str = "f") -> list[float | None]:
    """Values of the rows that are served; None for the others."""
    served = np.isin(part.rows.verdicts, [Verdict.FRESH, Verdict.EXPIRED, Verdict.PARTIAL])
    return [float(v) if ok else None for v, ok in zip(column(part.rows, feature), served, strict=True)]


def acting(outcomes: Iterator[Exception | float | Reading], *, takes_s: float = 0.0) -> Next:
    """An inner plan that takes time and then does what comes next: raises an error, or answers."""

    def plan(request: Request) -> Plan[Reading]:
        yield from sleep(takes_s)
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if isinstance(outcome, Reading) else Reading([])

    return plan


class Dice(Random):
    """A generator whose every draw is known."""

    def __init__(self, value: float) -> None:
        super().__init__(0)
        self.value = value

    def random(self) -> float:
        return self.value
