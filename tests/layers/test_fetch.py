"""One round trip, decoded: origins, ages, and layouts that are learned when rows of them are met."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from featurechaos.codec import Layout, column, encode, nulls
from featurechaos.effects import Describe, Note, Read
from featurechaos.errors import StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.layers.fetch import Fetch
from featurechaos.model import Origin, Verdict
from featurechaos.readings import Rules
from featurechaos.stores import Block
from featurechaos.testing import ManualClock, MemoryStore, Told, play
from tests.layers.kit import ROLES, VIEW, add_rows, ask_of, fetch, request_of, rows_of, values_of, view_of

OLD, NEW = VIEW, view_of("v", f="float32", g="float32")


def described(store: MemoryStore, *views: Any) -> MemoryStore:
    for view in views:
        layout = Layout.of(view)
        store.described[layout.hash] = layout.describe()
    return store


def played(clock: ManualClock, layer: Fetch, store: Any, *keys: int, **more: Any) -> Told:
    return play(layer(request_of(clock, keys, **more)), {more.get("source", "primary"): store}, clock)


def verdicts(told: Told) -> list[int]:
    return told.result.parts[0].rows.verdicts.tolist()  # type: ignore[no-any-return]


def asks(told: Told) -> list[type]:
    return [type(effect) for effect in told.effects]


@pytest.mark.parametrize("source", ["primary", "second", "standby"])
def test_a_row_has_the_origin_of_its_source(source: str) -> None:
    clock = ManualClock()

    told = played(clock, fetch(clock), rows_of(clock, {1: 1.0}), 1, source=source)

    assert told.result.parts[0].origin == ROLES[source]


@pytest.mark.parametrize(
    ("age_s", "verdict"),
    [(-30, Verdict.FRESH), (100, Verdict.FRESH), (101, Verdict.EXPIRED), (1000, Verdict.EXPIRED), (1001, Verdict.PAST)],
)
def test_ages_are_judged_to_the_second_of_the_limit(age_s: float, verdict: Verdict) -> None:
    clock = ManualClock()
    rules = Rules(online=("primary",), ttl_us=100_000_000, hard_us=1_000_000_000)

    told = played(clock, fetch(clock), rows_of(clock, {1: 1.0}, age_s=age_s), 1, rules=rules)

    assert verdicts(told) == [verdict]


def test_rows_of_words_are_checked_like_rows_of_bytes() -> None:
    clock = ManualClock()
    held = rows_of(clock, {1: 1.0, 2: 2.0})

    class Replica(MemoryStore):
        def read(self, asks: Any, until: float, *, as_of_us: int | None = None) -> Any:
            blobs: Any = held.read(asks, until)[0]
            words = np.frombuffer(bytearray(b"".join(blobs)), np.uint64).reshape(2, -1)
            words[1, -1] ^= np.uint64(1)
            return [Block(words, np.array([True, True]))]

    told = played(clock, fetch(clock), Replica(), 1, 2)

    assert verdicts(told) == [Verdict.FRESH, Verdict.CORRUPT]


def test_a_layout_not_met_before_is_asked_for_once() -> None:
    clock = ManualClock()
    layer = fetch(clock, known={})
    store = described(add_rows(rows_of(clock, {1: 1.0}), clock, {2: 2.0}, view=NEW), OLD, NEW)

    first, second = played(clock, layer, store, 1, 2), played(clock, layer, store, 2, 1)

    assert asks(first)[:2] == [Read, Describe]
    assert first.notes == ["schema.learned"]
    assert asks(second) == [Read]
    assert [values_of(told.result.parts[0]) for told in (first, second)] == [[1.0, 2.0], [2.0, 1.0]]


def test_rows_of_an_older_layout_lack_what_was_added() -> None:
    clock = ManualClock()
    store = described(rows_of(clock, {1: 1.0}), OLD)

    told = played(clock, fetch(clock, {}), store, 1, view=NEW)

    rows = told.result.parts[0].rows
    assert (column(rows, "f").tolist(), nulls(rows, "g").tolist()) == ([1.0], [True])


def test_a_layout_nobody_knows_is_not_asked_for_again_for_ten_seconds() -> None:
    clock = ManualClock()
    layer, store = fetch(clock), add_rows(MemoryStore(), clock, {1: 1.0}, view=NEW)

    first = played(clock, layer, store, 1)
    assert (asks(first)[:2], first.notes) == ([Read, Describe], ["schema.unknown"])
    clock.advance(9.9)
    told = played(clock, layer, store, 1)
    assert (asks(told), verdicts(told)) == ([Read], [Verdict.CORRUPT])
    clock.advance(0.2)
    described(store, NEW)

    told = played(clock, layer, store, 1)

    assert asks(told)[:2] == [Read, Describe]
    assert values_of(told.result.parts[0]) == [1.0]


@pytest.mark.parametrize("error", [StoreTimeout("late"), StoreRefused("may not"), StoreUnavailable("gone")])
def test_a_description_that_does_not_come_costs_its_own_rows_only(error: Exception) -> None:
    clock = ManualClock()
    store = add_rows(rows_of(clock, {1: 1.0, 3: 3.0}), clock, {2: 2.0}, view=NEW)

    told = play(fetch(clock)(request_of(clock, [1, 2, 3])), {"primary": iter([store, error])}, clock)

    assert verdicts(told) == [Verdict.FRESH, Verdict.CORRUPT, Verdict.FRESH]
    assert told.notes == ["schema.unknown"]
    note = told.effects[-1]
    assert isinstance(note, Note)
    assert note.fields == {"hashes": [Layout.of(NEW).hash], "reason": str(error)}


def test_it_is_asked_for_again_after_half_a_second() -> None:
    """That a source was slow once says nothing of the layout; a source that is slow must not be asked at every read."""
    clock = ManualClock()
    layer = fetch(clock)
    store = described(add_rows(rows_of(clock, {1: 1.0}), clock, {2: 2.0}, view=NEW), NEW)
    play(layer(request_of(clock, [1, 2])), {"primary": iter([store, StoreTimeout("late")])}, clock)

    clock.advance(0.49)
    assert asks(played(clock, layer, store, 1, 2)) == [Read]
    clock.advance(0.02)
    told = played(clock, layer, store, 1, 2)

    assert values_of(told.result.parts[0]) == [1.0, 2.0]


def test_a_read_beside_one_that_is_still_asking_asks_itself() -> None:
    """Under load many reads meet a new layout at once; none may be answered CORRUPT for that."""
    clock = ManualClock()
    layer = fetch(clock)
    store = described(add_rows(MemoryStore(), clock, {1: 1.0}, view=NEW), NEW)
    first = layer(request_of(clock, [1]))
    read = next(first)
    assert isinstance(read, Read)
    assert isinstance(first.send(store.read(read.asks, read.until)), Describe)  # and it waits there

    told = played(clock, layer, store, 1)

    assert values_of(told.result.parts[0]) == [1.0]
    first.close()


def test_a_description_that_does_not_fit_leaves_its_rows_corrupt_and_no_others() -> None:
    clock = ManualClock()
    store = add_rows(rows_of(clock, {1: 1.0}), clock, {2: 2.0}, view=NEW)
    store.described[Layout.of(NEW).hash] = Layout.of(OLD).describe()

    told = played(clock, fetch(clock), store, 1, 2)

    assert verdicts(told) == [Verdict.FRESH, Verdict.CORRUPT]


def test_a_layout_of_another_type_is_not_guessed_at() -> None:
    clock = ManualClock()
    text = view_of("v", f="string")
    store = described(rows_of(clock, {1: "x"}, view=text), text)  # type: ignore[dict-item]

    assert verdicts(played(clock, fetch(clock), store, 1)) == [Verdict.CORRUPT]


def test_foreign_bytes_ask_for_no_layout() -> None:
    clock = ManualClock()
    store = MemoryStore()
    store.put(ask_of([1, 2]), [b"\x01\xfc\x01\x00" + bytes(60), b"junk"])

    told = played(clock, fetch(clock), store, 1, 2)

    assert asks(told) == [Read], "only a row whose sum holds is worth a question"
    assert verdicts(told) == [Verdict.CORRUPT] * 2


def test_a_rolling_change_of_schema_never_answers_corrupt() -> None:
    """Old and new clients on one store: a feature is added, then removed again, while all of them read and write."""
    clock = ManualClock()
    store = described(rows_of(clock, dict.fromkeys(range(20), 1.0)))
    wrong: list[Any] = []
    stop = threading.Event()

    def reads(view: Any) -> None:
        layer = Fetch(clock, {"primary": Origin.PRIMARY}, {})
        while not stop.is_set():
            told = played(clock, layer, store, *range(20), view=view)
            if verdicts(told) != [Verdict.FRESH] * 20:
                wrong.append((view.features, verdicts(told)))

    def writes() -> None:
        for turn in range(60):
            view = (OLD, NEW, OLD)[turn // 20]
            ask = ask_of(range(20), view)
            store.described[ask.layout.hash] = ask.layout.describe()
            at = np.full(20, int(clock.wall() * 1e6) + turn, np.int64)
            blobs = encode(ask.layout, {one.name: [float(turn)] * 20 for one in view.features}, at, ask.keys.own)
            for number in range(20):
                store.put(ask.only(np.array([number])), [blobs[number]])

    described(store, OLD)
    threads = [threading.Thread(target=reads, args=(view,)) for view in (OLD, NEW, OLD, NEW)]
    for thread in threads:
        thread.start()
    writes()
    stop.set()
    for thread in threads:
        thread.join()

    assert not wrong
