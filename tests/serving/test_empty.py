"""A client whose primary comes back without its data, from end to end."""

from __future__ import annotations

from typing import Any

import pytest

from featurechaos import Cause, FeatureClient, Origin, Status
from featurechaos.testing import ManualClock
from tests.serving.kit import CLOCK_S, CONFIG, store_of, write

KEYS = list(range(100))
POLICY = {"retry": None, "breaker": {"min_calls": 10}, "empty": {"min_rows": 150}, "on_exhausted": "default"}


@pytest.fixture
def client() -> FeatureClient:
    client = FeatureClient.from_config(CONFIG | {"policy": POLICY}, clock=ManualClock(CLOCK_S))
    write(client, k=KEYS, f=[float(key) for key in KEYS], g=KEYS)
    read(client)
    return client


def read(client: FeatureClient, keys: Any = None) -> Any:
    clock = client.clock
    assert isinstance(clock, ManualClock)
    clock.advance(0.05)
    return client.get_online_features(["v:f"], {"k": KEYS if keys is None else keys})


def truth(response: Any) -> tuple[set[int], set[int], set[int]]:
    told = response.provenance("v")
    return set(told.origin.tolist()), set(told.status.tolist()), set(told.cause.tolist())


def test_flushed_it_is_believed_for_one_answer_and_again_once_it_is_filled(client: FeatureClient) -> None:
    rows, store = dict(store_of(client).rows), store_of(client)
    store.rows.clear()

    before, then = read(client), read(client)
    while_away = [truth(read(client)) for _ in range(100)]
    store.rows.update(rows)
    after = [read(client) for _ in range(100)][-1]

    assert truth(before) == ({Origin.PRIMARY}, {Status.NOT_FOUND}, {Cause.NONE})
    assert truth(then) == ({Origin.LAST_KNOWN}, {Status.PRESENT}, {Cause.EMPTY})
    assert then.columns["f"].tolist() == [float(key) for key in KEYS]
    assert set(map(str, while_away)) == {str(truth(then))}, "also while the breaker is open"
    assert truth(after) == ({Origin.PRIMARY}, {Status.PRESENT}, {Cause.NONE})


def test_it_is_told_in_the_metrics_the_status_and_the_strict_readiness(client: FeatureClient) -> None:
    rows, store = dict(store_of(client).rows), store_of(client)

    def told() -> tuple[bool, bool, Any]:
        return client.ready(), client.ready(full=True), client.status()["sources"]["primary"]["is_empty"]

    well = told()
    store.rows.clear()
    read(client)
    read(client)
    empty = told()
    store.rows.update(rows)
    for _ in range(100):
        read(client)

    assert well == told() == (True, True, False)
    assert empty == (True, False, True)


def test_switched_off_it_is_believed() -> None:
    off = FeatureClient.from_config(CONFIG | {"policy": POLICY | {"empty": None}}, clock=ManualClock(CLOCK_S))
    write(off, k=KEYS, f=[1.0] * 100, g=KEYS)
    read(off)
    store_of(off).rows.clear()

    for _ in range(10):
        assert truth(read(off)) == ({Origin.PRIMARY}, {Status.NOT_FOUND}, {Cause.NONE})
